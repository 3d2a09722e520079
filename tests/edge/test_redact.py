"""What the agent keeps of samples and labels, by the policies of the releases that it knows."""

import stat
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skerry_edge.observe.arrow import Rows
from skerry_edge.observe.redact import Redactor, pseudonym_key
from skerry_shared import telemetry
from skerry_shared.errors import ConfigError, InputError
from skerry_shared.privacy import drop, generalise, keep, pseudonym
from skerry_shared.release import ANY, Manifest, TensorSpec
from skerry_shared.testing.examples import MANIFEST

KEY, ID = bytes(32), "0123456789abcdef01234567"
FIELDS = (keep("reading"), generalise("age", step=10), pseudonym("patient"), drop("ward"))
PATIENTS = replace(
    MANIFEST, workload="patients", labels=("ill", "well"), fields=FIELDS,
    inputs=(TensorSpec("row", "float32", (ANY, 4)),),
)  # fmt: skip
ROW = np.array([0.5, 41, 1234567, 7], np.float32)


def batch(*samples: tuple[Manifest, bytes, str]) -> Rows:
    columns: Rows = {name: [] for name in telemetry.TABLES["samples"]}
    for manifest, raw, name in samples:
        row = {
            "workload": manifest.workload, "release": manifest.release, "time": 1.0, "prediction_id": name,
            "input": raw, "encoding": manifest.inputs[0].dtype, "scores": b"", "stratum": "audit", "probability": 1.0,
            "audit": 1.0,
        }  # fmt: skip
        for column, values in columns.items():
            values.append(row[column])
    return columns


def test_each_row_is_kept_by_the_policy_of_its_own_model() -> None:
    picture = bytes(range(4))
    given = batch((MANIFEST, picture, "any text"), (PATIENTS, ROW.tobytes(), ID), (PATIENTS, ROW.tobytes(), f"{ID}.1"))
    before = deepcopy(given)
    rows = Redactor(KEY, [MANIFEST, PATIENTS]).samples(given)
    assert given == before
    assert rows["input"][0] == picture and rows["input"][1] == rows["input"][2]
    reading, age, patient, ward = np.frombuffer(rows["input"][1], np.float32)
    assert (reading, age, ward) == (0.5, 40, 0) and patient not in (0, 1234567)
    assert rows["prediction_id"] == ["any text", ID, f"{ID}.1"]
    assert {name: column for name, column in rows.items() if name not in ("input", "prediction_id")} == {
        name: column for name, column in given.items() if name not in ("input", "prediction_id")
    }


def test_where_nothing_is_hidden_the_batch_stays_as_it_is() -> None:
    given = batch((MANIFEST, bytes(4), ID))
    assert Redactor(KEY, [MANIFEST, PATIENTS]).samples(given) is given


def test_an_id_that_is_none_of_ours_may_be_anything() -> None:
    rows = Redactor(KEY, [PATIENTS]).samples(batch((PATIENTS, ROW.tobytes(), "ada@example.org")))
    (name,) = rows["prediction_id"]
    told = Redactor(KEY, [PATIENTS]).truths([("ada@example.org", "ill"), (ID, "ill"), (ID, "Ada")])
    assert told[0] == (name, "ill") and name != "ada@example.org"  # they still belong together
    assert told[1] == (ID, "ill") and told[2][1] != "Ada"
    assert Redactor(KEY, [MANIFEST]).truths([("any", "text")]) == [("any", "text")]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (batch((replace(PATIENTS, release=9), ROW.tobytes(), ID)), "patients release 9 is not known here"),
        (batch((PATIENTS, bytes(3), ID)), r"samples: input is no float32 \[4\]"),
    ],
)
def test_what_may_be_kept_must_be_known(given: Rows, why: str) -> None:
    redactor = Redactor(KEY, [PATIENTS])
    with pytest.raises(InputError, match=why):
        redactor.samples(given)


def test_a_release_is_known_from_its_activation_on() -> None:
    redactor, given = Redactor(KEY, []), batch((PATIENTS, ROW.tobytes(), ID))
    redactor.know(PATIENTS)
    assert np.frombuffer(redactor.samples(given)["input"][0], np.float32)[3] == 0


def test_the_key_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "pseudonyms.key"
    key = pseudonym_key(path)
    assert pseudonym_key(path) == key and len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, a key has 32: openssl rand"):
        pseudonym_key(path)

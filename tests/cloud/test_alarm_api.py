"""Alarms and releases through the API, as the command line asks it.

Of an alarm its life, its labelling queue, and what is done about it; of a release what is kept of its inputs.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import select

from skerry_cloud import alarms, api
from skerry_cloud.ingest.lake import Lake, schema
from skerry_cloud.retrain.policy import Verdict
from skerry_cloud.store import Alarm, Bundle, Dataset, Event, Release, Retraining, Run, Store
from skerry_shared import wire
from skerry_shared.privacy import generalise, pseudonym
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec

NOVEMBER = 1_794_700_000.0  # in the midst of a month, wherever this runs

MANIFEST = Manifest(
    workload="w", release=1, owner="o", labels=("cat", "dog"), inputs=(TensorSpec("picture", "uint8", (ANY, 2)),),
    outputs=(TensorSpec("scores", "float32", (ANY, 2)),), target=Target("p", "x86_64", "onnxruntime", "float32"),
    measured=Measured(1, 0.1, 1.0, 0.0), lineage=Lineage(1, "00", 1, "c"), baseline=(), tolerance=1e-3,
    model_file="m.onnx",
)  # fmt: skip
ALARM = {"level": "device", "name": "a", "devices": ["a"], "workload": "w", "release": 1, "kind": "drift",
         "health": "drift", "state": "open", "opened": 5.0, "since": 4.0, "raised": 5.0, "summary": "",
         "detail": {}}  # fmt: skip


def sample(name: str) -> dict[str, Any]:
    scores = np.array([0.25, 0.75], np.float32).tobytes()
    return {"workload": "w", "release": 1, "time": 10.0, "prediction_id": name, "input": b"xy", "encoding": "uint8",
            "scores": scores, "stratum": "audit", "probability": 0.5, "audit": 0.5, "device": "a", "session": "s",
            "counter": int(name), "row": 0, "received": 11.0}  # fmt: skip


class Caller:
    """Asks the application as a server does."""

    def __init__(self, store: Store, lake: Lake, **more: Any) -> None:
        services = SimpleNamespace(store=store, lake=lake, operator="secret", repository=".", **more)
        self._app = api.create(cast(api.Services, services))

    async def ask(self, method: str, path: str, query: str = "", **body: Any) -> tuple[int, Any]:
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
                 "query_string": query.encode(), "headers": [(b"authorization", b"Bearer secret")]}  # fmt: skip
        status, content = 0, b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(body).encode()}

        async def send(message: Any) -> None:
            nonlocal status, content
            status, content = message.get("status", status), content + message.get("body", b"")

        await self._app(scope, receive, send)
        return status, json.loads(content)


def test_an_operator_is_asked_for_labels_and_gives_them(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        async with store.begin() as session:
            session.add(Release(workload="w", number=1, run=1, owner="o", created=1.0, reason="r"))
            await session.flush()
            session.add(Bundle(workload="w", release=1, profile="p", path="p", sha256="0", length=1,
                               manifest=wire.to_json(MANIFEST)))  # fmt: skip
            session.add(Alarm(**cast(Any, ALARM)))
        lake = Lake(tmp_path / "lake")
        rows = [sample(str(number)) for number in range(1, 6)]
        lake.append("samples", pa.Table.from_pylist(rows, schema("samples")), {})
        caller, path = Caller(store, lake), "/v1/alarms/1/labels"

        status, found = await caller.ask("GET", path, "count=3")
        assert status == 200 and found["labels"] == ["cat", "dog"]
        assert (found["dtype"], found["shape"], len(found["samples"])) == ("uint8", [2], 3)
        assert {(base64.b64decode(row["input"]), row["answer"]) for row in found["samples"]} == {(b"xy", "dog")}

        labels = [{"device": "a", "prediction_id": row["prediction_id"], "label": "cat"} for row in found["samples"]]
        for spoilt, words in (({"label": "cow"}, "'cow' is not one of cat, dog"), ({"device": "b"}, "not about 'b'")):
            status, said = await caller.ask("POST", path, labels=[labels[0], labels[1] | spoilt])
            assert status == 400 and words in said["error"]
        assert await caller.ask("POST", path, labels=labels) == (200, {"labels": 3})

        status, left = await caller.ask("GET", path, "count=200")
        told = {label["prediction_id"] for label in labels}
        assert {row["prediction_id"] for row in left["samples"]} == {"1", "2", "3", "4", "5"} - told
        for count in ("0", "201", "many"):
            status, said = await caller.ask("GET", path, f"count={count}")
            assert status == 400 and "count: expected a number from 1 to 200" in said["error"]

    with_store(story)


def test_an_alarm_is_acknowledged_assigned_and_resolved(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        async with store.begin() as session:
            await alarms.raise_(session, Alarm(**cast(Any, ALARM)), "drift")
        caller, path = Caller(store, Lake(tmp_path / "lake")), "/v1/alarms/1"
        assert (await caller.ask("POST", f"{path}/assign", owner=" ada "))[1]["owner"] == "ada"
        status, said = await caller.ask("POST", f"{path}/assign", owner=" ")
        assert status == 400 and "owner: name somebody" in said["error"]
        status, alarm = await caller.ask("POST", f"{path}/acknowledge", reason="on my way", owner="bob")
        assert (status, alarm["state"], alarm["owner"]) == (200, "acknowledged", "bob")
        assert (await caller.ask("POST", f"{path}/acknowledge", owner="eve"))[0] == 409
        assert (await store.get(Alarm, 1)).owner == "bob"
        status, alarm = await caller.ask("POST", f"{path}/resolve", reason="lamp mended")
        assert (alarm["state"], alarm["health"]) == ("resolved", "ok")
        for step in ("acknowledge", "resolve"):
            status, said = await caller.ask("POST", f"{path}/{step}")
            assert status == 409 and "cannot happen while 'resolved'" in said["error"]
        assert (await caller.ask("POST", "/v1/alarms/9/resolve"))[0] == 404
        events = await store.all(select(Event).order_by(Event.id))
        assert [(event.after, event.reason, event.actor) for event in events] == [
            ("open", "", "drift"), ("open", "nobody gives it to ada: by the operator", "operator"),
            ("open", "ada gives it to bob: on my way", "operator"), ("acknowledged", "on my way", "operator"),
            ("resolved", "lamp mended", "operator"),
        ]  # fmt: skip

    with_store(story)


def test_what_retraining_did_and_costs_is_shown(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(store: Store) -> None:
        async with store.begin() as session:
            session.add(Dataset(workload="w", number=1, parent=0, created=1.0, sha256="", rows=1, sources={}))
            await session.flush()
            for created, seconds in ((NOVEMBER, 60.0), (NOVEMBER + 86400, 30.0), (NOVEMBER + 40 * 86400, 6.0)):
                session.add(Run(workload="w", dataset=1, parent=0, code="", state="trained", created=created,
                                seconds=seconds, cost=seconds / 10))  # fmt: skip
            session.add(Retraining(workload="w", champion=1, alarms=[], reason="harm", began=NOVEMBER, run=2))
            session.add(Retraining(workload="w", champion=1, alarms=[], reason="harm", began=NOVEMBER))
        caller = Caller(store, Lake(tmp_path / "lake"), verdicts={"w": Verdict(False, "cooling down")})
        _, told = await caller.ask("GET", "/v1/retrainings")
        assert [(row["run"], row["cost"]) for row in told["retrainings"]] == [(2, 3.0), (0, 0.0)]
        assert told["verdicts"] == [{"workload": "w", "retrain": False, "reason": "cooling down"}]
        _, months = await caller.ask("GET", "/v1/costs")
        assert [(row["runs"], row["seconds"], row["cost"]) for row in months] == [(2, 90.0, 9.0), (1, 6.0, 0.6)]

    with_store(story)


@pytest.mark.parametrize(
    "spoilt", [{"hours": 0}, {"reason": " "}, {"level": "device"}, {"name": "a"}, {"level": "town", "name": "a"}]
)
def test_a_baseline_has_to_be_asked_for_properly(
    with_store: Callable[[Any], None], tmp_path: Path, spoilt: dict[str, Any]
) -> None:
    async def story(store: Store) -> None:
        caller = Caller(store, Lake(tmp_path / "lake"))
        asked: dict[str, Any] = {"workload": "w", "hours": 6.0, "reason": "new lamp"}
        status, said = await caller.ask("POST", "/v1/baselines", **asked)
        assert status == 404 and "none of 'w'" in said["error"]
        assert (await caller.ask("POST", "/v1/baselines", **asked | spoilt))[0] == 400
        assert await caller.ask("GET", "/v1/baselines") == (200, [])

    with_store(story)


def test_a_release_says_what_is_kept_of_its_inputs(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    manifests = (MANIFEST, replace(MANIFEST, fields=(generalise("age", 10, high=90), pseudonym("patient"))))

    async def story(store: Store) -> None:
        async with store.begin() as session:
            session.add(Dataset(workload="w", number=1, parent=0, created=1.0, sha256="0", rows=1, sources={}))
        for number, manifest in enumerate(manifests, 1):
            async with store.begin() as session:
                session.add(Run(workload="w", dataset=1, parent=0, code="c", state="compressed", created=1.0))
                session.add(Release(workload="w", number=number, run=number, owner="o", created=1.0, reason="r"))
                await session.flush()
                session.add(Bundle(workload="w", release=number, profile="p", path="p", sha256="0", length=1,
                                   manifest=wire.to_json(manifest)))  # fmt: skip
        caller, found = Caller(store, Lake(tmp_path / "lake")), []
        for number in (1, 2):
            status, release = await caller.ask("GET", f"/v1/releases/w/{number}")
            assert status == 200
            found.append((release["policy"], release["unseen"]))
        assert found[0] == ({}, [])
        assert found[1] == ({"age": "generalise to 90 in steps of 10", "patient": "hash"}, ["patient"])

    with_store(story)

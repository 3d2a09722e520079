"""The labelling queue of an alarm, through the API as the command line asks it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from skerry_cloud import api
from skerry_cloud.ingest.lake import Lake, schema
from skerry_cloud.store import Alarm, Bundle, Release, Store
from skerry_shared import wire
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec

MANIFEST = Manifest(
    workload="w", release=1, owner="o", labels=("cat", "dog"), inputs=(TensorSpec("picture", "uint8", (ANY, 2)),),
    outputs=(TensorSpec("scores", "float32", (ANY, 2)),), target=Target("p", "x86_64", "onnxruntime", "float32"),
    measured=Measured(1, 0.1, 1.0, 0.0), lineage=Lineage(1, "00", 1, "c"), baseline=(), tolerance=1e-3,
    model_file="m.onnx",
)  # fmt: skip
ALARM = {"level": "device", "name": "a", "devices": ["a"], "workload": "w", "release": 1, "kind": "drift",
         "health": "drift", "state": "open", "since": 4.0, "raised": 5.0, "summary": "", "detail": {}}  # fmt: skip


def sample(name: str) -> dict[str, Any]:
    scores = np.array([0.25, 0.75], np.float32).tobytes()
    return {"workload": "w", "release": 1, "time": 10.0, "prediction_id": name, "input": b"xy", "scores": scores,
            "probability": 0.5, "device": "a", "session": "s", "counter": int(name), "row": 0,
            "received": 11.0}  # fmt: skip


class Caller:
    """Asks the application as a server does."""

    def __init__(self, store: Store, lake: Lake) -> None:
        services = SimpleNamespace(store=store, lake=lake, operator="secret", repository=".")
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

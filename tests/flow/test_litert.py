"""A .tflite model all the way: trained, exported, signed, rolled out, and asked in an application's process."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skerry_cloud.workloads.digits import Digits
from skerry_edge import Client
from story.crew import Crew, run
from story.stage import Stage

SKERRY = Path(sys.executable).parent / "skerry"
PROFILE = "litert-x86-64"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    pytest.importorskip("litert_torch", reason="pip install 'skerry[tflite-export]'")
    with Crew(tmp_path / "logs") as crew:
        made = Stage(tmp_path, crew, mqtt=False)
        made.init_cloud({})
        made.start_cloud()
        yield made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_training_to_an_answer(stage: Stage) -> None:
    def skerry(*command: str) -> str:
        done = run(SKERRY, *command, environment={"SKERRY_CLOUD": str(stage.operator)})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    skerry("data", "add", "digits")
    skerry("train", "digits")
    made = json.loads(skerry("compress", "1", "--profile", PROFILE, "--max-drop", "8", "--json"))
    assert made["variants"][0]["recipe"] == "tflite(integer=True)"
    skerry("publish", "1")
    token = skerry("device", "add", "edge-1", "--profile", PROFILE).strip()
    assert stage.enroll("edge-1", token).returncode == 0
    stage.start_agent("edge-1", {"transports": ["grpc"]})
    skerry("rollout", "start", "digits/1", "--wait")
    field = Digits().field()
    with Client(stage.device("edge-1")) as client:
        answers = [client.predict({"picture": row[None]}).outputs["scores"][0] for row in field.inputs[:100]]
        assert client.predict({"picture": field.inputs[:7]}).outputs["scores"].shape == (7, 10)
    assert np.mean(np.argmax(answers, axis=1) == field.labels[:100]) > 0.9

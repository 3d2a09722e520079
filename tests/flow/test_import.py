"""A model without training code, from its file to a signed release that says where it comes from."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.parser
import pytest

from story.crew import Crew, run
from story.stage import Stage

SKERRY = Path(sys.executable).parent / "skerry"

# Ink in the left half against ink in the right half: not a good model of digits, but a model of ten scores.
MODEL = """
    <ir_version: 8, opset_import: ["" : 17]>
    foreign (uint8[1, 8, 8] pixels) => (float[1, 10] answers) <int64[2] flat = {-1, 64}> {
        value = Cast <to = 1> (pixels)
        row = Reshape (value, flat)
        part = Slice (row, from, to, axis)
        answers = LogSoftmax <axis = 1> (part)
    }
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Crew(tmp_path / "logs") as crew:
        made = Stage(tmp_path, crew, mqtt=False)
        made.init_cloud({})
        made.start_cloud()
        yield made


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    text = MODEL
    for old, new in changes:
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    for name, value in (("from", 20), ("to", 30), ("axis", 1)):
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value]))
    path = folder / "foreign.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(400)  # a cloud that starts, five jobs
def test_from_a_file_to_a_release(stage: Stage, tmp_path: Path) -> None:
    def skerry(*command: str | Path, code: int = 0) -> str:
        done = run(SKERRY, *command, environment={"SKERRY_CLOUD": str(stage.operator)})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    file, report = write(tmp_path), tmp_path / "report.html"
    skerry("data", "add", "digits")
    imported = json.loads(skerry("model", "import", file, "--workload", "digits", "--json"))
    assert imported["state"] == "trained" and 0 < imported["accuracy"] < 1
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert imported["code"] == f"sha256:{digest}"
    kept = stage.cloud_folder / "runs" / str(imported["id"]) / "imported" / file.name
    assert kept.read_bytes() == file.read_bytes()

    assert "has no report" in skerry("run", "report", "1", report, code=2)
    skerry("compress", "1", "--profile", "industrial-pc", "--report", report)
    assert report.read_text().startswith("<!DOCTYPE html>")
    skerry("publish", "1")
    lineage = json.loads(skerry("release", "show", "digits/1", "--lineage", "--json"))
    told = {step["kind"]: step for step in lineage}["run"]
    assert told["why"] == f"imported by operator: foreign.onnx, sha256 {digest}"
    assert json.loads(skerry("release", "show", "digits/1", "--json"))["report"] == "/v1/runs/1/report"

    wrong = write(tmp_path, ("8, 8", "4, 16"))
    said = skerry("model", "import", wrong, "--workload", "digits", code=1)
    assert "input 'pixels': the file takes uint8 [1, 4, 16], workload input 'picture' is uint8 [-1, 8, 8]" in said
    assert [row["state"] for row in json.loads(skerry("run", "list", "--json"))] == ["compressed", "failed"]
    assert "is not the name of a file" in skerry("model", "import", report, "--workload", "digits", code=2)

"""The cloud as a process: what it refuses, what it says then, and what survives its death."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import urllib3

from skerry_cloud.api_client import CloudClient
from skerry_shared import errors
from story.crew import Crew, run
from story.stage import Stage

BIN = Path(sys.executable).parent


ORDER = {"workload": "digits", "release": 1, "canary": 1, "wave_seconds": 1.0}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("cloud")
    with Crew(folder / "logs") as crew:
        made = Stage(folder, crew, mqtt=True)
        made.init_cloud({})
        made.start_cloud()
        yield made


@pytest.fixture
def cloud(stage: Stage) -> CloudClient:
    return CloudClient(stage.operator)


def ask(stage: Stage, method: str, path: str, token: str = "", **more: Any) -> tuple[int, Any]:
    pool = urllib3.PoolManager(ca_certs=str(stage.cloud_folder / "keys/authority.pem"), retries=False)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = pool.request(method, f"{stage.url}/v1{path}", headers=headers, **more)
    return answer.status, json.loads(answer.data)


@pytest.mark.parametrize(
    "path",
    ["/devices", "/events", "/runs", "/telemetry", "/lake", "/lake/quarantine", "/releases/digits/1", "/alarms/1"],
)
@pytest.mark.parametrize("token", ["", "wrong"])
def test_nothing_is_shown_without_the_operators_token(stage: Stage, path: str, token: str) -> None:
    status, said = ask(stage, "GET", path, token)
    assert status == 401 and "operator token" in said["error"]


def test_nothing_is_done_without_it_either(stage: Stage) -> None:
    status, _ = ask(stage, "POST", "/devices", json={"name": "edge-9", "profile": "generic-x86-64"})
    assert status == 401
    assert CloudClient(stage.operator).get("/devices") == []


@pytest.mark.parametrize(
    ("path", "body", "kind", "words"),
    [
        ("/runs", {"wrokload": "digits"}, errors.UsageError, "unknown key 'wrokload'; did you mean 'workload'"),
        ("/runs", {}, errors.UsageError, "missing key 'workload'"),
        ("/runs", {"workload": "digits", "epochs": "3"}, errors.UsageError, "epochs: expected an integer"),
        ("/devices", {"name": "Edge 1", "profile": "generic-x86-64"}, errors.UsageError, "is not a name"),
        ("/devices", {"name": "edge-1", "profile": "toaster"}, errors.NotFoundError, "known: coral-dev-board"),
        ("/releases", {"run": 7}, errors.NotFoundError, "run: no 7"),
        ("/rollouts", ORDER, errors.NotFoundError, "no digits/1"),
        ("/rollouts/3/halt", {}, errors.NotFoundError, "rollout: no 3"),
        ("/devices/edge-1/drop", {"workload": "digits"}, errors.NotFoundError, "device edge-1: has no digits"),
        ("/devices/edge-1/drop", {}, errors.UsageError, "missing key 'workload'"),
        ("/alarms/3/resolve", {}, errors.NotFoundError, "alarm: no 3"),
    ],
)  # fmt: skip
def test_bad_requests_name_what_is_wrong(
    cloud: CloudClient, path: str, body: dict[str, Any], kind: type[Exception], words: str
) -> None:
    before = cloud.get("/events")
    with pytest.raises(kind) as caught:
        cloud.post(path, **body)
    assert words in str(caught.value)
    assert cloud.get("/events") == before


def test_long_work_that_cannot_start_raises_what_the_cloud_raised(cloud: CloudClient) -> None:
    with pytest.raises(errors.NotFoundError, match="no 'toast'; known: digits, fashion"):
        list(cloud.work("/datasets", workload="toast"))
    with pytest.raises(errors.NotFoundError, match="skerry data add digits"):
        list(cloud.work("/runs", workload="digits"))


@pytest.mark.parametrize("body", [b"", b"[]", b"no json", b"\xff\xfe", b"null"])
def test_bodies_that_are_no_objects_are_refused(stage: Stage, body: bytes) -> None:
    token = (stage.cloud_folder / "keys/operator.token").read_text()
    status, said = ask(stage, "POST", "/devices", token, body=body)
    assert status == 400 and said["error"]


def test_enrolment_refuses_nonsense_without_a_token(stage: Stage) -> None:
    for body in ({}, {"secret": "x"}, {"secret": "x", "csr": "y", "name": "edge-1", "profile": "", "more": 1}):
        status, said = ask(stage, "POST", "/enroll", json=body)
        assert status in (400, 403) and "error" in said


def test_the_repository_shows_no_other_files(stage: Stage) -> None:
    pool = urllib3.PoolManager(ca_certs=str(stage.cloud_folder / "keys/authority.pem"), retries=False)
    root = stage.url + "/repository"
    assert pool.request("GET", f"{root}/metadata/timestamp.json").status == 200
    for path in ("/../keys/operator.token", "/%2e%2e/keys/operator.token", "/metadata/../../state.db"):
        assert pool.request("GET", root + path).status == 404


def test_the_command_line_says_one_line_and_exits_with_a_code(stage: Stage, tmp_path: Path) -> None:
    here = {"SKERRY_CLOUD": str(stage.operator)}
    cases = [
        (("release", "show", "digits"), 2, "is not WORKLOAD/NUMBER"),
        (("release", "show", "digits/9"), 2, "no digits/9"),
        (("publish", "9"), 2, "run: no 9"),
        (("--cloud", str(tmp_path / "none.toml"), "device", "list"), 2, "no such file"),
    ]
    for command, code, words in cases:
        done = run(BIN / "skerry", *command, environment=here)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert words in done.stderr
    listed = run(BIN / "skerry", "device", "list", "--json", environment=here)
    assert json.loads(listed.stdout) == []


def test_a_second_cloud_on_the_same_folder_is_refused_and_harms_nothing(stage: Stage, cloud: CloudClient) -> None:
    second = run(BIN / "skerry-cloud", "serve", stage.cloud_folder)
    assert second.returncode == 1 and len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert cloud.get("/devices") == []


def test_a_wrong_configuration_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    made = run(BIN / "skerry-cloud", "init", tmp_path / "fleet", "--fleet", "Not A Name")
    assert made.returncode == 2 and "fleet" in made.stderr and not (tmp_path / "fleet").exists()
    assert run(BIN / "skerry-cloud", "init", tmp_path / "fleet").returncode == 0
    assert run(BIN / "skerry-cloud", "init", tmp_path / "fleet").returncode == 1
    file = tmp_path / "fleet/skerry-cloud.toml"
    file.write_text(file.read_text().replace("min_labels", "min_lables"))
    checked = run(BIN / "skerry-cloud", "check", tmp_path / "fleet")
    assert checked.returncode == 2 and "did you mean 'min_labels'?" in checked.stderr


def test_what_was_acknowledged_survives_kill_and_the_broker_dies_with_its_cloud(tmp_path: Path) -> None:
    with Crew(tmp_path / "logs") as crew:
        stage = Stage(tmp_path, crew, mqtt=True)
        stage.init_cloud({})
        client = stage.start_cloud()
        token = client.post("/devices", name="edge-1", profile="generic-x86-64")["token"]
        children = _children(stage.cloud_pid)
        os.kill(stage.cloud_pid, signal.SIGKILL)
        crew.stop("cloud")
        for child in children:  # one may be loading torch
            subprocess.run(["tail", f"--pid={child}", "-f", "/dev/null"], check=True, timeout=60)
        again = stage.start_cloud()
        assert [device["name"] for device in again.get("/devices")] == ["edge-1"]
        assert stage.enroll("edge-1", token).returncode == 0


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def test_the_lake_is_asked_in_sql_and_only_asked(stage: Stage, tmp_path: Path) -> None:
    here = {"SKERRY_CLOUD": str(stage.operator)}

    def lake(*command: str) -> "subprocess.CompletedProcess[str]":
        return run(BIN / "skerry", "lake", *command, environment=here)

    tables = json.loads(lake("tables", "--json").stdout)
    assert {row["table"] for row in tables} >= {"windows", "samples", "quarantine"}
    assert json.loads(lake("query", "SELECT count(*) AS rows FROM windows", "--json").stdout) == [{"rows": 0}]
    saved = tmp_path / "rows.csv"
    assert lake("query", "SELECT 1 AS a, [1, 2] AS b, 'x'::BLOB AS c", "--csv", str(saved)).returncode == 0
    assert saved.read_text().splitlines() == ["a,b,c", '1,"[1, 2]",eA==']
    saved = tmp_path / "rows.parquet"
    assert lake("query", "SELECT range AS n, [n] AS l FROM range(3)", "--parquet", str(saved)).returncode == 0
    assert pq.read_table(saved).to_pydict() == {"n": [0, 1, 2], "l": [[0], [1], [2]]}
    for wrong, why in (
        ("SELECT * FROM gossip", "gossip does not exist"), ("DROP TABLE windows", "only reads"),
        ("SELECT 1; SELECT 2", "needs one statement"), ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
    ):  # fmt: skip
        refused = lake("query", wrong)
        assert refused.returncode == 2 and why in refused.stderr, wrong
    assert json.loads(lake("quarantine", "--json").stdout) == []
    assert len(json.loads(lake("maintain", "--dry-run", "--json").stdout)) == len(tables)

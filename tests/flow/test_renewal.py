"""A device whose certificate ended while it was away certifies itself anew with the real cloud, and links."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

from skerry_cloud.keys import Keys
from skerry_edge.config import Folders
from skerry_shared import identity
from story.crew import Crew
from story.stage import News, Stage


def test_a_device_that_was_away_too_long_comes_back_by_itself(tmp_path: Path) -> None:
    with Crew(tmp_path / "logs") as crew:
        stage = Stage(tmp_path, crew, mqtt=False)
        stage.init_cloud({})
        cloud = stage.start_cloud()
        news = News(cloud)
        token: str = cloud.post("/devices", name="edge-1", profile="generic-x86-64")["token"]
        assert stage.enroll("edge-1", token).returncode == 0
        _age(Folders(stage.device("edge-1")), Keys(stage.cloud_folder / "keys").authority)
        stage.start_agent("edge-1", {})
        renewed = news.wait("the renewal", 60, lambda event: "certified" in event["reason"])
        assert (renewed["kind"], renewed["name"], renewed["actor"]) == ("device", "edge-1", "edge-1")
        news.wait("a link", 60, lambda event: "started" in event["after"])


def _age(folders: Folders, authority: identity.Authority) -> None:
    """Give the device the certificate that it would have had from a hundred days ago."""
    csr = identity.request("edge-1", identity.load_key(folders.key.read_bytes()))
    then = datetime.now(timezone.utc) - timedelta(days=100)
    folders.certificate.write_bytes(authority.sign_request(csr, "edge-1", then, 90))

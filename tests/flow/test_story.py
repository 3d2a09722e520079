"""The whole loop with a tiny model: the same story as `scripts/demo`, the same processes, the same checks."""

from pathlib import Path

import pytest

from story import acts
from story.crew import Crew
from story.show import Show
from story.stage import Stage
from story.telling import TINY, Telling


@pytest.mark.timeout(240)
def test_the_loop_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(acts.__file__).parent.parent))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with Crew(tmp_path / "logs") as crew:
        acts.tell(Telling(Show(), Stage(tmp_path, crew, mqtt=True), TINY, "mixed"))

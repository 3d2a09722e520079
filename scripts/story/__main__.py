"""scripts/demo: tells the story, and exits non-zero where a step did not hold."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from skerry_shared.errors import SkerryError
from story import acts
from story.crew import Crew
from story.show import Show
from story.stage import BrokenError, Stage
from story.telling import LONG, SHORT, Telling

ABOUT = """The whole loop on real data: train, compress, sign, roll out, predict, drift, retrain, recover, and stop bad
releases. Exits non-zero where a step does not hold; Ctrl-C at any time leaves no process behind."""

HINT = """
Left running in {folder}. Look around, from another terminal:

  export SKERRY_CLOUD={folder}/cloud/operator.toml
  skerry device list
  skerry events
  skerry drift list
  skerry release show {workload}/2 --lineage
  skerry-agent status {folder}/edge-1
  skerry-agent doctor {folder}/edge-1

Ctrl-C ends it.
"""


def main() -> int:
    """Parse, tell, clean up."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=ABOUT)
    parser.add_argument(
        "--transport", choices=("mixed", "mqtt", "grpc"), default="mixed",
        help="how devices reach the cloud; mixed: two over MQTT, one over gRPC",
    )  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="a smaller story, on scikit-learn's digits")
    parser.add_argument("--keep", action="store_true", help="leave it running, and say how to look around")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="skerry-demo-"))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # two cores for nine processes: nobody spins
    try:
        return _tell(folder, options)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(folder: Path, options: argparse.Namespace) -> int:
    show = Show()
    script = SHORT if options.fast or not _has_fashion(show) else LONG
    with Crew(folder / "logs") as crew:
        stage = Stage(folder, crew, mqtt=options.transport != "grpc")
        try:
            acts.tell(Telling(show, stage, script, options.transport))
        except (BrokenError, SkerryError) as error:
            show.console.print(f"\n[red bold]The story broke:[/] {error}", markup=True)
            for log in sorted((folder / "logs").iterdir()):
                show.console.print(f"— {log.name}\n{crew.log(log.stem)}", markup=False, soft_wrap=True)
            return 1
        if options.keep:
            print(HINT.format(folder=folder, workload=script.workload))
            signal.pause()
    return 0


def _has_fashion(show: Show) -> bool:
    from skerry_cloud.workloads.fashion import Fashion  # loads torch, and --help need not

    if not (found := Fashion.folder.is_dir()):
        show.say("Fashion-MNIST is not installed (apt-get install dataset-fashion-mnist): on to scikit-learn's digits")
    return found


if __name__ == "__main__":
    sys.exit(main())

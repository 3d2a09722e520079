"""A search for a variant, as a program that can be killed: prints the stage of each piece of progress."""

import json
import sys
from pathlib import Path

from skerry_cloud.compress.job import work
from skerry_cloud.job import Progress
from skerry_cloud.specs import CompressSpec
from skerry_shared.config import decode


def say(progress: Progress) -> None:
    sys.stdout.write(f"{progress.stage}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work(decode(CompressSpec, json.loads(Path(sys.argv[1]).read_text()), sys.argv[1]), say)

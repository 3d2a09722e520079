"""A job as a program that can be killed: prints each piece of progress.

Arguments: train or compress, a file with its spec as JSON.
"""

import json
import sys
from pathlib import Path

from skerry_cloud.compress.job import work as compress
from skerry_cloud.job import Progress
from skerry_cloud.specs import CompressSpec, TrainSpec
from skerry_cloud.train.job import work as train
from skerry_shared.config import decode


def say(progress: Progress) -> None:
    sys.stdout.write(f"{progress.stage} {progress.done}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    which, path = sys.argv[1:]
    told = json.loads(Path(path).read_text())
    if which == "train":
        train(decode(TrainSpec, told, path), say)
    else:
        compress(decode(CompressSpec, told, path), say)

"""A lake that takes in rows and is tended after each, until it is killed: ``keeper.py FOLDER``.

Four rows come a day; after two days they move to the cold tier. Prints the number of each row once it is durable.
"""

import sys
from pathlib import Path

import pyarrow as pa

from skerry_cloud.ingest.lake import Lake, schema
from skerry_cloud.ingest.upkeep import DAY, Policy, tend

START = 1_780_000_000.0
POLICY = Policy(hot_days=2, vacuum_hours=0)
MARK = "d/00"


def main(folder: Path) -> None:
    lake = Lake(folder / "lake", str(folder / "cold"))
    while True:
        number = lake.watermark("labels", MARK) + 1
        received = START + number * DAY / 4
        lake.append("labels", _row(number, received), {MARK: number})
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        tend(lake.table("labels"), POLICY, received)


def _row(number: int, received: float) -> pa.Table:
    row = {"time": received, "prediction_id": "p", "label": "x", "device": "d", "session": "00", "counter": number,
           "row": 0, "received": received}  # fmt: skip
    return pa.Table.from_pylist([row], schema("labels"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

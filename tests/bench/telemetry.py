"""The way back: bytes on the wire, ingest beside bare decode and append, and 200 runs under faults.

    scripts/bench telemetry [--runs 200] [--seed SEED]

A run under faults takes some ten seconds, and two go at once. What is asked is printed beside what was found.
"""

import argparse
import json
import random
from typing import Any

from delivering.many import many
from telemetering import ingest, wire

ASKED = {
    "summary_bytes_ratio": 1 / 50,
    "sample_lossless_ratio": 1 / 6,
    "sample_bytes_ratio": 1 / 8,  # in the lossy profile that a device may declare
    "window_bytes_20": 300,
    "lost": 0,
    "duplicated": 0,
}
AT_LEAST = {"ingest_ratio": 0.5}


def main() -> None:
    """Print the figures, as JSON last."""
    options = _options()
    found: dict[str, Any] = wire.measure() | ingest.measure()
    print(f"faults, seed {options.seed}:")
    found |= many(options.runs, options.seed)
    for name, value in found.items():
        print(f"{name:22} {value:12.4g}  {_asked(name, value)}")
    print(json.dumps(found))


def _asked(name: str, value: float) -> str:
    if name in ASKED:
        return f"at most {ASKED[name]:.4g}{'' if value <= ASKED[name] else '  MISSED'}"
    if name in AT_LEAST:
        return f"at least {AT_LEAST[name]:.4g}{'' if value >= AT_LEAST[name] else '  MISSED'}"
    return ""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench telemetry", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="under faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the faults")
    return parser.parse_args()


if __name__ == "__main__":
    main()

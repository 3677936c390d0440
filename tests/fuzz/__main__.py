"""`make fuzz`: every fuzzer of this folder, one after the other, for so many minutes in all."""

import argparse
import os
import sys
from pathlib import Path
from random import Random

import pytest

# Seconds that a target may take beyond its time: for its servers to start, and for what it waits for at most.
GRACE = 600


def main() -> int:
    """0 when nothing broke."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--seed", default=str(Random().randrange(10**6)), help="of a run that is to be repeated")
    options.add_argument("--only", default="", help="targets whose names begin so")
    options.add_argument("--round", default="0", help="of a target, to begin with")
    told = options.parse_args()
    seconds = told.minutes * 60
    os.environ |= {"FUZZ_SECONDS": str(seconds), "TEST_SEED": told.seed}
    os.environ |= {"FUZZ_ONLY": told.only, "FUZZ_ROUND": told.round}
    print(f"fuzzing for {told.minutes:g} minutes, seed {told.seed}", flush=True)  # noqa: T201
    return pytest.main(
        ["-q", "-s", f"--timeout={seconds + GRACE:.0f}", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    )


if __name__ == "__main__":
    sys.exit(main())

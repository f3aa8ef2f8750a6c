"""Record pairs for the proof of `sppo-bench compare`: an hour on a machine without other load.

    python -m tests.soak.compare_record --minutes 60 --output results/published/proofs/compare-pairs

Every kind has the same time: quiet, beside a bursty neighbour, and with a planted slow-down of
10 %. A folder for each kind has its pairs, every third of them A/A. A folder that is there goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.environment import describe_environment
from benchmarks.regression.compare import measuring, recorded
from benchmarks.regression.compare.recorded import Header, Kind
from benchmarks.regression.compare.session import Measured
from benchmarks.regression.compare.trees import two_trees
from tests.soak.compare_kinds import KINDS, commit_of, end_cleanly, head_of, load
from tests.soak.compare_tries import MARGIN, TARGET

TURNS: tuple[Kind, ...] = ("a/a", "a/b", "a/b")


def record(kind: str, base: str, directory: Path, seconds: float) -> int:
    """Record pairs of one kind for so many seconds; their number."""
    with head_of(kind, base) as head, two_trees(base, head) as (base_tree, head_tree):
        for tree in (base_tree, head_tree):
            measuring.check(tree, TARGET)
        header = Header(
            base=base_tree.words,
            head=head_tree.words,
            margin=MARGIN,
            targets=[TARGET],
            environment=describe_environment(),
        )
        directory.mkdir(parents=True, exist_ok=True)
        recorded.write_header(directory, header)
        measured = Measured(base=base_tree, head=head_tree, directory=directory)
        end = time.monotonic() + seconds
        number = 0
        with load(kind, seed=1):
            while time.monotonic() < end:
                measured(TARGET, TURNS[number % len(TURNS)], number)
                number += 1
        return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of all kinds together")
    parser.add_argument("--base", default="HEAD", help="the commit on both sides")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    end_cleanly()
    kinds = asked.kinds.split(",")
    base = commit_of(asked.base)
    for kind in kinds:
        seconds = 60 * asked.minutes / len(kinds)
        number = record(kind, base, asked.output / kind, seconds)
        print(f"{kind}: {number} pairs in {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

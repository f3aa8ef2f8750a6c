"""Live tries of `sppo-bench compare` on the engine step, each within a minute.

    python -m tests.soak.compare_live --tries 10 --output results/published/proofs/compare-live.json

Every kind has so many tries: quiet, beside a bursty neighbour, with a planted slow-down of 10 %.
Exits 1 if identical code was called worse or better, or the slow-down not worse. An undecided try
is no fault. Use a machine without other load.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks import cli
from benchmarks.environment import describe_environment
from benchmarks.records import store
from tests.soak.compare_kinds import KINDS, commit_of, end_cleanly, head_of, load
from tests.soak.compare_tries import TARGET

FALSE: Mapping[str, frozenset[str]] = {
    "quiet": frozenset(("worse", "better")),
    "bursty": frozenset(("worse", "better")),
    "slow-down": frozenset(("not worse", "better")),
}
"""Wrong verdicts of each kind."""

DECIDED_OR_NOT = (0, 1, 3)
"""Exit codes of a comparison with a verdict."""


def compare(base: str, head: str, budget: str, folder: str) -> dict[str, Any]:
    """One comparison: its exit code, verdict and numbers."""
    arguments = ["compare", base, head, "--json", "--targets", TARGET]
    with redirect_stdout(StringIO()) as shown:
        code = cli.main([*arguments, "--budget", budget, "--output", folder])
    if code not in DECIDED_OR_NOT:
        raise RuntimeError(f"`sppo-bench compare` has ended with exit code {code}")
    (target,) = json.loads(shown.getvalue())["targets"]
    return {"exit_code": code, **target}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10, help="of each kind")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--base", default="HEAD", help="the commit on both sides")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    end_cleanly()
    base = commit_of(asked.base)
    tries: list[dict[str, Any]] = []
    for kind in asked.kinds.split(","):
        with head_of(kind, base) as head, tempfile.TemporaryDirectory() as folder:
            for number in range(asked.tries):
                with load(kind, seed=100 + number):
                    tries.append({"kind": kind, **compare(base, head, asked.budget, folder)})
                print(tries[-1], flush=True)
    counts = Counter((each["kind"], each["outcome"]) for each in tries)
    wrong = sum(each["outcome"] in FALSE[each["kind"]] for each in tries)
    print({f"{kind}: {outcome}": count for (kind, outcome), count in counts.items()})
    if asked.output:
        report = {
            "schema": "sppo-proof/1",
            "what": "live tries of sppo-bench compare",
            "label": "measured",
            "budget": asked.budget,
            "wrong": wrong,
            "tries": tries,
            "environment": describe_environment(),
        }
        store.save(asked.output, report)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

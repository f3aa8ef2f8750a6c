"""How many claimed intervals hold the true ratio? Rows of a known ratio, made by hand.

    python -m tests.soak.claims --output results/published/proofs/claims.json

Nothing is launched: each row's launches and steps differ at random by given shares, and get further
launches as in a run. A disturbed launch is 20 % slower and says so.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.records import store
from benchmarks.records.claim import LEAST_PAIRS, Claim, claim, to_repeat, yardstick
from benchmarks.records.record import Record, grouped
from benchmarks.records.timing import TOLERANCE, timings
from tests.unit.timing_cases import BUSY, LABELS, QUIET, launch

TRUTH = 1.3
MOST_LAUNCHES = 6
STEP_SPREAD = 0.02
SEED = 20250313


def run(chance: random.Random, spread: float, disturbed: float) -> list[Record]:
    """Launches of a peer and of SPPO whose true ratio is TRUTH, until nothing asks for more."""
    done: list[Record] = []
    for number in range(1, MOST_LAUNCHES + 1):
        if number > LEAST_PAIRS and not to_repeat(done):
            break
        for system, median in (("megatron", TRUTH), ("sppo", 1.0)):
            is_disturbed = chance.random() < disturbed
            level = median * chance.gauss(1, spread) * (1.2 if is_disturbed else 1.0)
            steps = [level * chance.gauss(1, STEP_SPREAD) for _ in range(5)]
            done.append(launch(system, number, steps, BUSY if is_disturbed else QUIET))
    return done


def claimed(done: list[Record]) -> Claim:
    """What the table says of the peer."""
    return claim(grouped(done, "row")[LABELS["megatron"]], yardstick(done), timings(done))


def case(spread: float, disturbed: float, rows: int) -> dict[str, Any]:
    """Counts over rows of one kind: claims, intervals that hold TRUTH, claims far from TRUTH."""
    chance = random.Random(SEED)
    claims = [claimed(run(chance, spread, disturbed)) for _ in range(rows)]
    made = [(row.ratio, row.low, row.high) for row in claims if row.ratio is not None]
    holds = [low for _, low, high in made if low is None or high is None or low <= TRUTH <= high]
    return {
        "launches_differ_by": spread,
        "disturbed_launches": disturbed,
        "rows": rows,
        "claimed": len(made),
        "hold_the_true_ratio": len(holds),
        "far": sum(abs(ratio / TRUTH - 1) > TOLERANCE for ratio, _, _ in made),
    }


def main() -> None:
    """Run all cases, print them, and save them with commit and machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    cases = []
    for disturbed in (0.0, 0.25):
        for spread in (0.01, 0.02, 0.03):
            cases.append(case(spread, disturbed, asked.rows))
            print(cases[-1], flush=True)
    if asked.output is not None:
        report = {"label": "simulated", "seed": SEED, "steps_differ_by": STEP_SPREAD}
        report |= {"most_launches": MOST_LAUNCHES, "least_pairs": LEAST_PAIRS, "cases": cases}
        store.save(asked.output, {**report, "environment": describe_environment()})


if __name__ == "__main__":
    main()

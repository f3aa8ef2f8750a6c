"""How often `sppo-bench history` calls a regression: simulated nights, with and without a change.

    python -m tests.soak.changes --output changes.json

Every night adds a point, and the history is judged as after `history add`. Noise: "normal", or
"bursts", where every 20th night is disturbed and 5 to 50 % slower. A planted change makes all
nights from the 30th on slower.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import describe_environment
from benchmarks.records import store
from benchmarks.regression.history.changes import is_new
from benchmarks.regression.history.series import MARGIN

NIGHTS = 60
CHANGE_NIGHT = 30
SERIES = 200
SEED = 20250313
BURST_SHARE = 0.05


def nights(random: np.random.Generator, noise: float, bursts: bool, slower: float) -> Any:
    """Seconds of every night of one series, 1 without noise."""
    seconds = 1 + noise * random.standard_normal(NIGHTS)
    if bursts:
        disturbed = random.random(NIGHTS) < BURST_SHARE
        seconds[disturbed] *= 1 + random.uniform(0.05, 0.5, disturbed.sum())
    seconds[CHANGE_NIGHT:] *= 1 + slower
    return seconds


def alarms(seconds: Any) -> list[int]:
    """The nights that call a regression."""
    called = []
    for night in range(NIGHTS):
        change = is_new(seconds[: night + 1].tolist(), least=MARGIN)
        if change is not None and change.after > change.before:
            called.append(night)
    return called


def case(noise: float, *, bursts: bool, slower: float, series: int) -> dict[str, Any]:
    """Rates over many series of one kind."""
    random = np.random.default_rng(SEED)
    false = caught = 0
    delays = []
    for _ in range(series):
        called = alarms(nights(random, noise, bursts, slower))
        right = [night for night in called if slower and CHANGE_NIGHT <= night < CHANGE_NIGHT + 7]
        caught += bool(right)
        delays += [right[0] - CHANGE_NIGHT + 1] if right else []
        false += len([night for night in called if not slower or night < CHANGE_NIGHT])
    return {
        "noise": noise,
        "bursts": bursts,
        "slower": slower,
        "series": series,
        "false_alarms_per_1000_nights": 1000
        * false
        / series
        / (CHANGE_NIGHT if slower else NIGHTS),
        "caught_within_7_nights": caught / series if slower else None,
        "median_nights_until_caught": float(np.median(delays)) if delays else None,
    }


def main() -> int:
    """0; prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    cases = []
    for bursts in (False, True):
        for noise in (0.005, 0.01, 0.02, 0.04):
            for slower in (0.0, 0.05, 0.1):
                cases.append(case(noise, bursts=bursts, slower=slower, series=asked.series))
                print(cases[-1], flush=True)
    if asked.output is not None:
        report = {"schema": "sppo-history-proof/1", "nights": NIGHTS, "cases": cases}
        store.save(asked.output, {**report, "environment": describe_environment()})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How often is a verdict of `sppo-bench compare` wrong? Many tries drawn from recorded pairs.

    python -m tests.soak.compare_resample results/published/proofs/compare-pairs \\
        --output results/published/proofs/compare-resampled.json

A try is a whole comparison on pairs of nine minutes, drawn in stretches, so a burst stays a burst.
Exits 1 if identical code is called worse or better in over 1 % of tries of a kind. With 10 minutes
a target, exits 1 too if the slow-down of 10 % is called worse in under 99 %, or over a quarter is
undecided.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import store
from benchmarks.records.store import RecordError
from benchmarks.regression.compare import recorded
from benchmarks.regression.compare.recorded import RecordedPair
from tests.soak.compare_kinds import KINDS
from tests.soak.compare_tries import PATIENT, SETTINGS, Draws, rates

STRETCH = 4
"""Consecutive pairs that are drawn together."""

WINDOW = 90
"""Consecutive pairs from which a try is drawn: some nine minutes, as a comparison has."""

LEAST_PAIRS = 30

MOST_FALSE = 0.01
LEAST_WORSE = 0.99
MOST_UNDECIDED = 0.25


def draws(pairs: Sequence[RecordedPair], seed: int) -> Callable[[int], tuple[Draws, Draws]]:
    """Tries of pairs that were recorded within one window, in stretches, none of them twice."""

    def of_try(number: int) -> tuple[Draws, Draws]:
        random = np.random.default_rng([seed, number])
        start = int(random.integers(max(1, len(pairs) - WINDOW)))
        window = pairs[start : start + WINDOW]

        def stretches(kind: str) -> Draws:
            own = [pair for pair in window if pair.kind == kind]
            assert own, f"no {kind} pair among {WINDOW} consecutive ones"
            while True:  # once more only where a try needs more pairs than there are
                for first in random.permutation(range(0, len(own), STRETCH)):
                    yield from own[first : first + STRETCH]

        return stretches("a/a"), stretches("a/b")

    return of_try


def resample(directory: Path, tries: int) -> list[dict[str, Any]]:
    """One entry for each kind and setting. Raises RecordError on a folder without pairs."""
    cases = []
    for seed, kind in enumerate(KINDS):
        header, pairs = recorded.read(directory / kind)
        if len(pairs) < LEAST_PAIRS:
            raise RecordError(f"{directory / kind}: {len(pairs)} pairs are too few to draw from")
        for setting in SETTINGS:
            case = {"kind": kind, "recorded_pairs": len(pairs), "base": header.base}
            case |= rates(tries, setting, draws(pairs, seed))
            cases.append(case)
            print(case, flush=True)
    return cases


def faults(case: Mapping[str, Any]) -> list[str]:
    """What a case does not keep to, in words. Less time may leave more undecided."""
    wrong = []
    is_patient = case["target_seconds"] == PATIENT.seconds
    if case["kind"] == "slow-down":
        if is_patient and case["worse"] < LEAST_WORSE:
            wrong.append(f"worse in {case['worse']:.1%} only")
    elif case["worse"] + case["better"] > MOST_FALSE:
        wrong.append(f"identical code worse or better in {case['worse'] + case['better']:.1%}")
    if is_patient and case["undecided"] > MOST_UNDECIDED:
        wrong.append(f"undecided in {case['undecided']:.0%}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, help="the folder of compare_record")
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    cases = resample(asked.pairs, asked.tries)
    wrong = [f"{case['kind']}: {fault}" for case in cases for fault in faults(case)]
    print("; ".join(wrong) or "all as it must be")
    if asked.output:
        report = {
            "schema": "sppo-proof/1",
            "what": "verdicts of sppo-bench compare on tries drawn from recorded pairs",
            "label": "drawn from measured pairs",
            "faults": wrong,
            "cases": cases,
            "environment": recorded.read(asked.pairs / KINDS[0])[0].environment,
        }
        store.save(asked.output, report)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

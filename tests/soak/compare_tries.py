"""Many tries of a comparison on drawn pairs: how often is which verdict given?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.regression.compare.recorded import Kind, RecordedPair
from benchmarks.regression.compare.session import Session
from benchmarks.regression.compare.verdict import false_calls_each
from benchmarks.regression.targets.target import Measurement

TARGET = "engine-step"

MARGIN = 0.03

Draws = Iterator[RecordedPair]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A target of a command with so many targets. seconds: the target's part of the budget."""

    targets: int
    seconds: float


LIVE = Setting(targets=1, seconds=60.0)
"""The live tries: one target, a minute."""

DEFAULT = Setting(targets=3, seconds=200.0)
"""`sppo-bench compare` without flags: three targets share 10 minutes."""

PATIENT = Setting(targets=3, seconds=600.0)
"""`--budget 30m`, as in examples/ci/regression.yml."""

SETTINGS = (LIVE, DEFAULT, PATIENT)


def rates(
    tries: int, setting: Setting, draws: Callable[[int], tuple[Draws, Draws]]
) -> dict[str, Any]:
    """Shares of the verdicts on one target, and the pairs that a try takes.

    draws: the number of a try -> its A/A pairs and its A/B pairs, without end.
    """
    false_calls = false_calls_each(setting.targets)
    counts = Counter[str]()
    pairs = 0
    for number in range(tries):
        a_a, a_b = draws(number)
        session = _Try(a_a, a_b).session(false_calls)
        judged = session.compare_target(TARGET, setting.seconds)
        counts[judged.outcome] += 1
        pairs += judged.pairs
    outcomes = ("worse", "better", "not worse", "undecided")
    shares = {outcome.replace(" ", "_"): counts[outcome] / tries for outcome in outcomes}
    return {
        "budget_seconds": setting.targets * setting.seconds,
        "targets": setting.targets,
        "target_seconds": setting.seconds,
        "tries": tries,
        **shares,
        "mean_pairs": pairs / tries,
    }


class _Try:
    """A session whose clock goes on by the seconds of the drawn pairs."""

    def __init__(self, a_a: Draws, a_b: Draws) -> None:
        self.draws: dict[Kind, Draws] = {"a/a": a_a, "a/b": a_b}
        self.now = 0.0

    def session(self, false_calls: float) -> Session:
        return Session(
            next_pair=self.next_pair,
            margin=MARGIN,
            false_calls=false_calls,
            clock=lambda: self.now,
        )

    def next_pair(self, target: str, kind: Kind, number: int) -> RecordedPair:
        pair = next(self.draws[kind])
        self.now += pair.seconds
        return pair


def made_pair(kind: Kind, base_seconds: float, head_seconds: float, seconds: float) -> RecordedPair:
    """A pair of these least times."""
    return RecordedPair(
        target=TARGET,
        kind=kind,
        order="base first",
        seconds=seconds,
        base=_measurement(base_seconds),
        head=_measurement(head_seconds),
    )


def _measurement(seconds: float) -> Measurement:
    return Measurement(target=TARGET, least_seconds=seconds, median_seconds=seconds, repetitions=1)

"""Bootstrap intervals of step times and of their ratios, from the seconds of measured steps.

Launches are the independent unit: the steps of a launch share its processes, placement and moment.
So a resample draws launches first, then steps within each drawn launch (Kalibera and Jones,
"Rigorous Benchmarking in Reasonable Time", ISMM 2013). scipy.stats.bootstrap has one level only.

With two launches the interval spans about both of them: it shows what they support, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 20250313
"""Of numpy's legacy generator, whose stream is frozen: the same records give the same table."""

Steps = Sequence[float]
"""Seconds of the measured steps of one launch."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median over launches and its percentile interval."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """The larger distance of an end from the median, as a share of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median


def step_interval(launches: Sequence[Steps]) -> Interval:
    """The median over launches of a launch's median step, in seconds."""
    assert launches, "there are launches"
    medians = [float(np.median(steps)) for steps in launches]
    return _interval(medians, [_resampled_medians(steps) for steps in _seeded(launches)])


def ratio_interval(pairs: Sequence[tuple[Steps, Steps]]) -> Interval:
    """The median over pairs of launches of the ratio of their median steps.

    A pair is drawn as a whole, because its launches ran next to each other.
    """
    assert pairs, "there are pairs of launches"
    ratios = [float(np.median(row) / np.median(yardstick)) for row, yardstick in pairs]
    seeded = iter(_seeded([steps for pair in pairs for steps in pair]))
    resampled = []
    for row, yardstick in zip(seeded, seeded, strict=True):
        resampled.append(_resampled_medians(row) / _resampled_medians(yardstick))
    return _interval(ratios, resampled)


def unpaired_ratio_interval(numerators: Sequence[Steps], denominators: Sequence[Steps]) -> Interval:
    """The ratio of medians over launches of two sides that did not run next to each other.

    Each side has its own random stream. A side of one launch would show no spread of launches.
    """
    assert min(len(numerators), len(denominators)) > 1, "each side has two launches or more"
    upper, lower = step_interval(numerators), step_interval(denominators)
    drawn = []
    for seed, launches in ((SEED, numerators), (SEED + 2, denominators)):
        resampled = [_resampled_medians(steps) for steps in _seeded(launches, seed)]
        drawn.append(np.median(_drawn(resampled, seed + 1), axis=1))
    return _around(upper.median / lower.median, drawn[0] / drawn[1])


@dataclass(frozen=True, kw_only=True)
class _Seeded:
    """The steps of a launch, and the generator and number of its resamples."""

    steps: npt.NDArray[np.float64]
    generator: np.random.RandomState
    launches: int


def _seeded(launches: Sequence[Steps], seed: int = SEED) -> list[_Seeded]:
    generator = np.random.RandomState(seed)
    return [
        _Seeded(steps=np.asarray(steps), generator=generator, launches=len(launches))
        for steps in launches
    ]


def _resampled_medians(launch: _Seeded) -> npt.NDArray[np.float64]:
    """Medians of resampled steps, (RESAMPLES, launches): one for each place of a resample."""
    count = len(launch.steps)
    drawn = launch.generator.randint(count, size=(RESAMPLES, launch.launches, count))
    medians: npt.NDArray[np.float64] = np.median(launch.steps[drawn], axis=2)
    return medians


def _interval(values: Sequence[float], resampled: Sequence[npt.NDArray[np.float64]]) -> Interval:
    """Draw launches (or pairs) with replacement, each with resampled steps of its own."""
    drawn = np.median(_drawn(resampled, SEED + 1), axis=1)
    return _around(float(np.median(values)), drawn)


def _drawn(resampled: Sequence[npt.NDArray[np.float64]], seed: int) -> npt.NDArray[np.float64]:
    """Launches drawn with replacement, (RESAMPLES, launches)."""
    count = len(resampled)
    chosen = np.random.RandomState(seed).randint(count, size=(RESAMPLES, count))
    by_launch = np.stack([medians[:, :count] for medians in resampled])
    drawn: npt.NDArray[np.float64] = by_launch[
        chosen, np.arange(RESAMPLES)[:, None], np.arange(count)[None, :]
    ]
    return drawn


def _around(median: float, drawn: npt.NDArray[np.float64]) -> Interval:
    """The percentile interval of the drawn values, with the median inside."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(median=median, low=min(float(low), median), high=max(float(high), median))

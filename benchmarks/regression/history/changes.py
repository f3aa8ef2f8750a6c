"""Change points of a sequence of numbers, by ruptures. Knows nothing of this project.

The rule, in order:

1. A running median of three removes single outliers: a change needs two points in a row.
2. PELT (Killick et al., 2012) cuts the sequence at changes of the mean. A cut costs PENALTY times
   the variance of the noise times the logarithm of the length. The noise is estimated from
   differences of neighbours, so that a step does not count as noise. `ruptures.KernelCPD` with a
   linear kernel is PELT with the cost l2, in C.
3. A cut remains if medians of both sides differ by more than `least`, and two points in a row lie
   beyond the middle. Otherwise both sides become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

LEAST_POINTS = 4
"""Two on each side of a change."""

PENALTY = 6.0
"""Chosen by simulation: docs/history.md has the rates of false and missed changes."""

EXACT_PENALTY = 0.25
"""Exact numbers are replaced by their ranks, so that any two differ by 1: a cut between them saves
at least 1."""

LEAST_NOISE = 0.002
"""Share of the level that counts as noise at least, where neighbours happen to be equal."""

MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for normal noise."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The level changed at this point: medians of the points before and from it on."""

    index: int
    before: float
    after: float

    @property
    def share(self) -> float | None:
        """The change over the level before; None from a level of 0."""
        return self.after / self.before - 1 if self.before else None


def find_changes(values: Sequence[float], *, least: float) -> list[Change]:
    """The changes in order. least: the smallest share that counts, 0 for exact numbers."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < LEAST_POINTS or np.all(numbers == numbers[0]):
        return []
    changes: list[Change] = []
    start = 0
    cuts = _cuts(numbers, exact=least == 0)
    for cut, end in zip(cuts, [*cuts, len(numbers)][1:], strict=True):
        change = Change(
            index=cut,
            before=float(np.median(numbers[start:cut])),
            after=float(np.median(numbers[cut:end])),
        )
        if _holds(change, numbers[cut:end], least):
            changes.append(change)
            start = cut
    return changes


def _cuts(numbers: Numbers, *, exact: bool) -> list[int]:
    import ruptures

    smooth = _running_median(numbers)
    if exact:
        _, places = np.unique(smooth, return_inverse=True)
        signal, penalty = places.astype(np.float64), EXACT_PENALTY
    else:
        level = float(np.median(np.abs(numbers))) or 1.0
        signal, noise = smooth / level, _noise(numbers / level)
        penalty = PENALTY * max(noise, LEAST_NOISE) ** 2 * math.log(len(numbers))
    search = ruptures.KernelCPD(kernel="linear", min_size=2).fit(signal)
    return [int(cut) for cut in search.predict(pen=penalty)[:-1]]


def _running_median(numbers: Numbers) -> Numbers:
    """Medians of three; each end takes its neighbour's."""
    inner = np.median(np.stack([numbers[:-2], numbers[1:-1], numbers[2:]]), axis=0)
    return np.concatenate([inner[:1], inner, inner[-1:]])


def _noise(numbers: Numbers) -> float:
    differences = np.abs(np.diff(numbers))
    return float(np.median(differences)) * MAD_TO_DEVIATION / math.sqrt(2)


def _holds(change: Change, after: Numbers, least: float) -> bool:
    difference = change.after - change.before
    if abs(difference) <= least * abs(change.before) or not difference:
        return False
    middle = change.before + difference / 2
    beyond = after > middle if difference > 0 else after < middle
    return bool(np.any(beyond[:-1] & beyond[1:]))


def is_new(values: Sequence[float], *, least: float) -> Change | None:
    """The last change if the last point is what confirms it; None if it was known before."""
    now = find_changes(values, least=least)
    before = find_changes(values[:-1], least=least)
    if not now or (before and before[-1].index >= now[-1].index - 1):
        return None
    return now[-1]


def is_beyond(values: Sequence[float], *, least: float) -> float | None:
    """By which share the last point alone differs from the level before it, if by more than
    `least` and three times the noise; else None."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < LEAST_POINTS:
        return None
    changes = find_changes(values, least=least)
    level = numbers[changes[-1].index if changes else 0 : -1]
    middle = float(np.median(level))
    if not middle or len(level) < 2:
        return None
    share = float(numbers[-1]) / middle - 1
    bound = max(least, 3 * _noise(level / middle)) if least else 0.0
    return share if abs(share) > bound else None

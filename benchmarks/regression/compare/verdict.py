"""Better, not worse, worse or undecided: a pure function of recorded pairs.

A measurement is the least time of a fresh process. Other load only adds to a time, so the ratio is
that of the least HEAD time to the least BASE time. The interval's ends are order statistics:

    low = least HEAD / k-th least BASE, high = third least HEAD / least BASE

The least BASE of `high` is that of the A/A pairs too: if all BASE times of the pairs were slowed,
a slow-down would pass.

Where HEAD is BASE's code, every order of the times is equally likely, because the sides take
turns. So the chance that the k least of all times are BASE's is C(2n - k, n) / C(2n, n), whatever
the noise is (the precedence test: Nelson, "Tables for a precedence life test", Technometrics
1963). The percentile bootstrap of a minimum has such ends too, but not its nominal level (Bickel
and Freedman, "Some asymptotic theory for the bootstrap", Annals of Statistics 1981).

`worse` has a second test, on the ratios within pairs (`benchmarks.regression.compare.paired`). A
core of two speeds rarely shows its least time, but slows both sides of most pairs alike.

k is exact: over all targets of a comparison and all looks at growing numbers of pairs, the least
times call identical code worse in at most FALSE_CALLS of comparisons. The ratios within pairs, and
`better`, have half as many each. This holds on a noisy machine too, so `worse` is given there.
docs/compare.md shows simulated rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import comb, inf
from typing import Literal

from benchmarks.regression.compare import paired
from benchmarks.regression.compare.paired import Pair

Outcome = Literal["better", "not worse", "worse", "undecided"]

FALSE_CALLS = 0.005
"""The most comparisons that the least times call worse for identical code, over all targets and
looks."""

FURTHER_PART = 0.5
"""The ratios within pairs may call as many worse, times this part. So may `better`."""

LOOKS = (6, 8, 12, 16, 22, 30, 40, 54, 72, 96, 128, 170, 226, 302, 402)
"""Numbers of pairs at which a verdict is tried. Even: each side comes first equally often."""

PASSING = 3
"""HEAD times within the margin that `not worse` needs."""

QUIET = 2
"""The A/A spread is that of the so many least BASE times of the A/A pairs."""

SPREAD_FACTOR = 3.0
"""The margin is at least this multiple of the A/A spread."""

WIDEST = 2.0
"""The margin may become this multiple of the asked one. A noisier machine decides `worse` alone."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome and its numbers; shares and ratios, HEAD over BASE. None: too few pairs.

    spread: of the A/A pairs. margin: the one that was used. reason: why undecided, or that the
    ratios within pairs have decided; else "". typical_ratio: within pairs; typical_margin: its own.
    decided_by: the test that has given `worse`, else "".
    """

    outcome: Outcome
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None
    margin: float
    pairs: int
    typical_ratio: float | None = None
    typical_margin: float | None = None
    decided_by: Literal["least times", "ratios within pairs", ""] = ""
    reason: str = ""


def verdict(
    pairs: Sequence[Pair],
    a_a_pairs: Sequence[Pair],
    margin: float,
    false_calls: float = FALSE_CALLS,
) -> Verdict:
    """The verdict on the pairs as a whole, at the look of their number.

    margin: the asked one, as a share. false_calls: the target's part of FALSE_CALLS. Raises
    ValueError unless the margin and all seconds are positive.
    """
    if not 0 < margin < 1:
        raise ValueError(f"a margin of {margin:g}: it must lie between 0 and 100 %")
    if any(not 0 < seconds < inf for seconds in (*_times(pairs), *_times(a_a_pairs))):
        raise ValueError("a recorded time is no positive number of seconds")
    spread = a_a_spread(a_a_pairs)
    used = max(margin, SPREAD_FACTOR * (spread or 0.0))
    judged = Verdict(
        outcome="undecided",
        spread=spread,
        margin=used,
        pairs=len(pairs),
        typical_ratio=paired.typical_ratio(pairs),
        typical_margin=_typical_margin(a_a_pairs, margin),
    )
    base = sorted(pair.base_seconds for pair in pairs)
    head = sorted(pair.head_seconds for pair in pairs)
    rank = least_rank(len(pairs), false_calls)
    if rank is not None:
        least_base = min(base[0], *_times(a_a_pairs))
        low, high = head[0] / base[rank - 1], head[PASSING - 1] / least_base
        judged = replace(judged, ratio=head[0] / base[0], low=low, high=high)
    if spread is not None and rank is not None and low > 1 + used:
        return replace(judged, outcome="worse", decided_by="least times")
    if _worse_by_pairs(pairs, judged.typical_margin, FURTHER_PART * false_calls):
        reason = (
            f"by the ratios within pairs: HEAD typically takes {judged.typical_ratio:.3f} times "
            f"as long, beyond a margin of {100 * (judged.typical_margin or 0.0):.1f} %"
        )
        return replace(judged, outcome="worse", decided_by="ratios within pairs", reason=reason)
    if too_noisy(a_a_pairs, margin):
        return replace(judged, reason=_too_noisy(spread, 2 * len(a_a_pairs)))
    if rank is None:
        least = next(number for number in LOOKS if least_rank(number, false_calls))
        few = f"{len(pairs)} pairs are too few of {least}: give more --budget"
        return replace(judged, reason=few)
    surer_rank = least_rank(len(pairs), FURTHER_PART * false_calls)
    if surer_rank is not None and head[surer_rank - 1] / least_base < 1 - used:
        return replace(judged, outcome="better")
    if high < 1 + used:
        return replace(judged, outcome="not worse")
    return replace(
        judged,
        reason=f"the interval {low:.3f} to {high:.3f} contains {1 + used:.3f}, the margin's end: "
        "give more --budget, or a quieter machine",
    )


def _typical_margin(a_a_pairs: Sequence[Pair], margin: float) -> float | None:
    """The asked margin, or three times the error of the typical ratio of the A/A pairs."""
    if len(a_a_pairs) < QUIET:
        return None
    error = abs((paired.typical_ratio(a_a_pairs) or 1.0) - 1)
    return max(margin, SPREAD_FACTOR * error)


def _worse_by_pairs(pairs: Sequence[Pair], margin: float | None, false_calls: float) -> bool:
    """Whether HEAD is surely slower within pairs, by more than the margin."""
    if margin is None or len(pairs) < LOOKS[0]:
        return False
    return paired.chance_of_equal(pairs, margin) <= _allowed(len(pairs), false_calls)


def _too_noisy(spread: float | None, runs: int) -> str:
    if spread is None:
        return f"{runs} A/A runs are too few of {QUIET}: give more --budget"
    return (
        f"the machine is too noisy: even the {QUIET} fastest of {runs} runs of BASE differ by "
        f"{100 * spread:.1f} %: use a quieter machine"
    )


def _times(pairs: Sequence[Pair]) -> Iterator[float]:
    for pair in pairs:
        yield pair.base_seconds
        yield pair.head_seconds


def a_a_spread(pairs: Sequence[Pair]) -> float | None:
    """How far the quietest runs of the same code differ, as a share; None for too few runs."""
    times = sorted(_times(pairs))
    return times[QUIET - 1] / times[0] - 1 if len(times) >= QUIET else None


def too_noisy(a_a_pairs: Sequence[Pair], margin: float) -> bool:
    """Whether the machine is too noisy for `better` and `not worse`."""
    spread = a_a_spread(a_a_pairs)
    return spread is None or SPREAD_FACTOR * spread > WIDEST * margin


def is_quiet(a_a_pairs: Sequence[Pair], margin: float) -> bool:
    """Whether the A/A pairs leave the asked margin as it is, so no more of them are needed."""
    spread = a_a_spread(a_a_pairs)
    return spread is not None and SPREAD_FACTOR * spread <= margin


def false_calls_each(targets: int) -> float:
    """The part of FALSE_CALLS that each of so many targets of a comparison has."""
    return FALSE_CALLS / max(1, targets)


def least_rank(pairs: int, false_calls: float = FALSE_CALLS) -> int | None:
    """k of the interval at this number of pairs; None where no k is sure enough."""
    allowed = _allowed(pairs, false_calls)
    for rank in range(PASSING, pairs + 1):
        if comb(2 * pairs - rank, pairs) <= allowed * comb(2 * pairs, pairs):
            return rank
    return None


def _allowed(pairs: int, false_calls: float) -> float:
    """The error at the look of this number: 1/2, 1/6, 1/12, ... of that of all looks."""
    look = 1 + sum(number < pairs for number in LOOKS)
    return false_calls / (look * (look + 1))


def decided(
    pairs: Sequence[Pair],
    a_a_pairs: Sequence[Pair],
    margin: float,
    false_calls: float = FALSE_CALLS,
    *,
    at_end: bool = False,
) -> Verdict | None:
    """The verdict if it is final: at a look that decides, or at the end of the budget.

    pairs: all so far. None: more pairs are needed.
    """
    if not at_end and len(pairs) not in LOOKS:
        return None
    judged = verdict(pairs, a_a_pairs, margin, false_calls)
    return judged if at_end or judged.outcome != "undecided" else None

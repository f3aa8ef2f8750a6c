"""The ratio that a table claims for two rows, or why it claims none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records import metrics
from benchmarks.records.bootstrap import ratio_interval
from benchmarks.records.provenance import is_crowded
from benchmarks.records.record import Record, grouped
from benchmarks.records.timing import (
    LEAST_LAUNCHES,
    TOLERANCE,
    Timing,
    failed_further,
    ratios_by_turn,
    timings,
)

LEAST_PAIRS = 3
"""Undisturbed pairs of launches under a claimed ratio: two may agree by chance."""

COMPARED_SYSTEM = "sppo"
"""The system whose step time all ratios compare with."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """How many times as fast as a row SPPO is, or the reason why no ratio is claimed.

    low, high: the bootstrap interval, None for a single pair of launches.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def yardstick(records: Sequence[Record]) -> list[Record]:
    """The launches that all ratios compare with: those of SPPO's first row; none without one."""
    rows = grouped(records, "row").values()
    return next((launches for launches in rows if launches[0].system == COMPARED_SYSTEM), [])


def claim(row: Sequence[Record], compared: Sequence[Record], judged: Mapping[str, Timing]) -> Claim:
    """The step time of a row over that of the compared row: the median over pairs of launches.

    Launches of one number ran next to each other, so other load slows both. Where they took turns,
    the ratio of a pair is the median over turns. judged: the verdicts on the rows of the run.
    """
    if not row or not compared:
        return Claim()
    labels = (row[0].row, compared[0].row)
    for label in labels:
        if judged[label].verdict == "unsettled":
            return Claim(reason=f"{label} is unsettled")
    used = judged[labels[0]].used & judged[labels[1]].used
    if labels[0] == labels[1]:
        return Claim(ratio=1.0) if used else Claim()
    late = judged[labels[0]].late | judged[labels[1]].late
    pairs = _pairs(row, compared, used - late)
    known = all(judged[label].verdict is not None for label in labels)
    if known and len(pairs) < LEAST_PAIRS:
        return Claim(
            reason=f"{len(pairs)} undisturbed pairs of launches are too few of {LEAST_PAIRS}"
        )
    if not pairs:
        return Claim()
    interval = ratio_interval(pairs)
    if known and interval.half_width > TOLERANCE:
        words = f"{interval.low:.2f}x to {interval.high:.2f}x"
        return Claim(reason=f"the interval of its ratio is too wide: {words}")
    if len(pairs) < LEAST_LAUNCHES:
        return Claim(ratio=interval.median)
    return Claim(ratio=interval.median, low=interval.low, high=interval.high)


def _pairs(
    row: Sequence[Record], compared: Sequence[Record], numbers: Collection[int]
) -> list[tuple[list[float], list[float]]]:
    """Seconds of the measured steps of both launches of each of these numbers.

    Of launches that took turns: ratios of steps, over ones. A launch that took turns without the
    other one forms no pair.
    """
    beside = {record.launch: record for record in compared}
    pairs = []
    for record in row:
        other = beside.get(record.launch)
        if record.launch not in numbers or other is None or record.round != other.round:
            continue
        if record.round is None:
            steps = (metrics.measured_seconds(one.steps) for one in (record, other))
            pairs.append((next(steps), next(steps)))
        else:
            ratios = ratios_by_turn(record, other)
            pairs.append((ratios, [1.0] * len(ratios)))
    return pairs


def to_repeat(records: Sequence[Record]) -> list[str]:
    """Rows that need a further launch: unsettled ones, those without a ratio, and SPPO beside.

    If SPPO itself is unsettled, these are all rows with times. None where ranks share cores. A row
    with a single launch is left alone: its user asked for one, or it was not its grid's fastest.
    A row with a failed launch is left alone too. If this is SPPO, no row can have further pairs.
    """
    judged = timings(records)
    compared = yardstick(records)
    pairs_end = bool(failed_further(compared)[0])
    rows = {
        label: launches
        for label, launches in grouped(records, "row").items()
        if len(launches) >= LEAST_LAUNCHES
        and all(record.status == "ok" for record in launches)
        and judged[label].verdict is not None
        and not is_crowded(launches[0])
    }
    repeated = {
        label
        for label, launches in rows.items()
        if judged[label].verdict == "unsettled"
        or (not pairs_end and claim(launches, compared, judged).reason)
    }
    if repeated and compared and compared[0].row in rows:
        repeated.add(compared[0].row)
    return [label for label in rows if label in repeated]

"""Two run folders of one workload, joined by row: times, memory and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.records.bootstrap import unpaired_ratio_interval
from benchmarks.records.equal_work import TOLERANCE, first_difference
from benchmarks.records.metrics import largest_bytes, measured_seconds
from benchmarks.records.provenance import machine
from benchmarks.records.record import Record, grouped, read_all
from benchmarks.records.store import RecordError
from benchmarks.records.timing import Timing, failed_further, timings
from benchmarks.regression.compare.verdict import Outcome

NOT_COMPARED = "not compared"


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """One row of both folders, B against A. None: not compared, or not known.

    ratio, low, high: of step times, with the bootstrap interval. memory_ratio: of the largest
    tracked peak of a rank. losses: "equal", or the difference, or why they are not compared.
    """

    row: str
    outcome: Outcome
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    memory_ratio: float | None = None
    losses: str = NOT_COMPARED
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The rows of both folders, and what a reader must know beside them."""

    workload: str
    rows: list[RowComparison]
    notes: list[str]


def join(base: Path, head: Path, margin: float) -> Joined:
    """Compare the rows of both folders. A row that the second folder lacks is worse.

    margin: of times and of memory, as a share. Raises RecordError on a folder without records, on
    different workloads, and where no row is in both.
    """
    sides = [read_all(folder) for folder in (base, head)]
    workloads = [records[0].workload for records in sides]
    if workloads[0] != workloads[1]:
        names = [workload.name for workload in workloads]
        words = " and ".join(names) if names[0] != names[1] else f"{names[0]} in two forms"
        raise RecordError(f"{base} and {head} ran different workloads ({words}): compare one")
    machines = [machine(records[0]) for records in sides]
    rows = [grouped(records, "row") for records in sides]
    common = [name for name in rows[0] if name in rows[1]]
    if not common:
        raise RecordError(f"{base} and {head} have no row in common: run the same --systems")
    notes = [f"{name} is only in {head}" for name in rows[1] if name not in rows[0]]
    lost = [
        RowComparison(row=name, outcome="worse", reason=f"{head} lacks this row")
        for name in rows[0]
        if name not in rows[1]
    ]
    same_machine = machines[0] == machines[1]
    if not same_machine:
        notes.append(
            f"different machines ({machines[0]}; {machines[1]}): seconds are not compared, "
            "memory and losses are"
        )
    judged = [timings(records) for records in sides]
    compared = [
        _row(
            (rows[0][name], rows[1][name]),
            (judged[0][name], judged[1][name]),
            margin,
            with_times=same_machine,
        )
        for name in common
    ]
    return Joined(workload=workloads[0].name, rows=compared + lost, notes=notes)


def _row(
    sides: tuple[list[Record], list[Record]],
    judged: tuple[Timing, Timing],
    margin: float,
    *,
    with_times: bool,
) -> RowComparison:
    base, head = (failed_further(side)[1] for side in sides)
    result = _with_status(base, head)
    if result.reason:
        return result
    losses, differ = _losses(base[0], head[0])
    result = replace(result, losses=losses, memory_ratio=_memory_ratio(base, head))
    if differ:
        return replace(result, outcome="worse", reason=f"other losses: {losses}")
    if result.memory_ratio is not None and result.memory_ratio > 1 + margin:
        grown = f"its peak memory is {100 * result.memory_ratio - 100:.1f} % larger"
        return replace(result, outcome="worse", reason=grown)
    if not with_times:
        return replace(result, outcome="not worse")
    return _with_times(result, (base, head), judged, margin)


def _with_status(base: Sequence[Record], head: Sequence[Record]) -> RowComparison:
    """The verdict on the statuses; without a reason where both are ok."""
    before, after = (
        next((each for each in side if each.status != "ok"), side[0]) for side in (base, head)
    )
    result = RowComparison(row=base[0].row, outcome="undecided")
    if before.status == after.status == "ok":
        return result
    if before.status == after.status:
        reason = f"{after.status} in both folders"
        return replace(result, outcome="not worse", reason=reason)
    reason = f"it was {before.status} and is {after.status}"
    if after.status == "ok":
        return replace(result, outcome="better", reason=reason)
    reason += f": {after.reason or 'no reason given'}"
    return replace(result, outcome="worse" if before.status == "ok" else "undecided", reason=reason)


def _with_times(
    result: RowComparison,
    sides: tuple[list[Record], list[Record]],
    judged: tuple[Timing, Timing],
    margin: float,
) -> RowComparison:
    """The verdict on the times of the launches that no other load has disturbed."""
    used = [
        [measured_seconds(record.steps) for record in side if record.launch in timing.used]
        for side, timing in zip(sides, judged, strict=True)
    ]
    if not all(used):
        return replace(result, reason="a side has no measured steps")
    for letter, timing in zip("AB", judged, strict=True):
        if timing.verdict is None:
            return replace(result, reason=f"{letter} has no readings of its machine")
        if timing.verdict == "unsettled":
            return replace(result, reason=f"{letter} is unsettled: {timing.reason}")
    interval = unpaired_ratio_interval(used[1], used[0])
    result = replace(result, ratio=interval.median, low=interval.low, high=interval.high)
    if interval.low > 1 + margin:
        return replace(result, outcome="worse")
    if interval.high < 1 - margin:
        return replace(result, outcome="better")
    if interval.high < 1 + margin:
        return replace(result, outcome="not worse")
    return replace(result, reason=f"its interval contains {1 + margin:.3f}, the margin's end")


def _memory_ratio(base: Sequence[Record], head: Sequence[Record]) -> float | None:
    before = largest_bytes(base, "tracked_peak_bytes")
    after = largest_bytes(head, "tracked_peak_bytes")
    return after / before if before and after is not None else None


def _losses(base: Record, head: Record) -> tuple[str, bool]:
    """Words on the losses and norms of the steps that both have, and whether they differ."""
    if base.text is None or head.text is None or base.text.sha256 != head.text.sha256:
        return f"{NOT_COMPARED}: other texts", False
    count = min(len(base.steps), len(head.steps))
    difference = first_difference(
        head.steps[:count],
        base.steps[:count],
        tolerance=TOLERANCE[base.workload.dtype],
        against="the first folder",
    )
    return ("equal", False) if difference is None else (str(difference), True)

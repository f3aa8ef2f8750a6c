"""Whether the times of a row are steady enough for a claim: a function of recorded launches alone.

1. A launch is disturbed if others took its cores, the kernel beside it was slow, or the machine
   throttled it (`disturbance`). A disturbed launch is set aside, whatever its times are. Of
   launches that took turns the kernel is not judged: the other rows met the same speed.
2. A row is settled if at least LEAST_LAUNCHES undisturbed launches remain and the bootstrap
   interval of its step time reaches at most TOLERANCE beyond the median.
3. A settled row is `steady` if no launch was set aside and its launches differ by at most
   TOLERANCE, else `noisy`. A row that is not settled is `unsettled`, and no ratio is claimed.
   Steps taken in turn count without the speed of their turn (`relative_steps`).
4. A launch above LEAST_LAUNCHES that failed or took too long is set aside, if all others are fine.

docs/timing.md has the reasons for the numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from benchmarks.records import machine, metrics
from benchmarks.records.bootstrap import Interval, step_interval
from benchmarks.records.record import Record, group_by, grouped

Verdict = Literal["steady", "noisy", "unsettled"]

TOLERANCE = 0.05
"""The most that an interval may reach beyond its median, and launches of a steady row may differ
by, as a share."""

TAKEN_SHARE = 0.05
"""The most that other processes may take of the cores that a launch wants."""

KERNEL_SLOWER = 0.25
"""The most by which the kernel beside a launch may be slower than the run's fastest reading."""


LEAST_LAUNCHES = 2
"""Without a second launch the spread between launches is unknown."""

REFINEMENTS = 20
"""Of typical steps and speeds of turns: an error of a first guess at least halves in each."""

NO_TURNS: Mapping[tuple[str, int], list[float]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The verdict on a row, None for launches without times or without readings of the machine.

    reason: why it is not steady. used: numbers of the launches whose times count. late: numbers of
    launches that were made after their round, so no other launch of that number ran beside them.
    between: largest difference of launches' median steps, over the smallest. within: median over
    launches of the interquartile range of a launch's steps over their median.
    """

    verdict: Verdict | None = None
    reason: str = ""
    used: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    between: float | None = None
    within: float | None = None


def timings(records: Sequence[Record]) -> dict[str, Timing]:
    """The verdict on each row of a run. The reference is no row, but its kernel readings count."""
    fastest = machine.fastest_kernel([record.machine_state for record in records])
    relative = relative_steps(records)
    return {
        row: replace(judge(launches, fastest, relative), late=_late(launches, records))
        for row, launches in grouped(records, "row").items()
    }


def _late(launches: Sequence[Record], records: Sequence[Record]) -> frozenset[int]:
    """A row that replaces another after an oom makes up for the rounds before."""
    return frozenset(
        record.launch
        for record in launches
        if any(other.launch > record.launch and other.started < record.started for other in records)
    )


def judge(
    launches: Sequence[Record],
    fastest_kernel: Mapping[int, float],
    relative: Mapping[tuple[str, int], list[float]] = NO_TURNS,
) -> Timing:
    """The verdict on the launches of one row.

    fastest_kernel: seconds of the run's fastest kernel reading, by number of threads. relative:
    seconds of steps that were taken in turn, by row and launch.
    """
    failed, launches = failed_further(launches)
    steps = {
        record.launch: relative.get((record.row, record.launch))
        or metrics.measured_seconds(record.steps)
        for record in launches
    }
    if any(record.status != "ok" for record in launches) or not all(steps.values()):
        return Timing()
    between, within = _between(steps.values()), _within(steps.values())
    if any(record.machine_state is None for record in launches):
        return Timing(used=frozenset(steps), between=between, within=within)
    causes = {
        record.launch: disturbance(
            record, {} if (record.row, record.launch) in relative else fastest_kernel
        )
        for record in launches
    }
    quiet = {number: seconds for number, seconds in steps.items() if not causes[number]}
    verdict, reason = _verdict(steps, quiet, [cause for cause in causes.values() if cause])
    if failed:
        verdict = "noisy" if verdict == "steady" else verdict
        reason = "; ".join(filter(None, (reason, *map(_failed_words, failed))))
    used = frozenset(quiet if len(quiet) >= LEAST_LAUNCHES else steps)
    return Timing(verdict=verdict, reason=reason, used=used, between=between, within=within)


def failed_further(launches: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The failed further launches of a row whose other launches are fine, and those others.

    None, and all, of a row with any other failure, or with launches whose machine was not read.
    """
    failed: list[Record] = []
    others: list[Record] = []
    for record in launches:
        further = record.launch > LEAST_LAUNCHES and record.status in ("failed", "timeout")
        (failed if further else others).append(record)
    fine = [record for record in others if record.status == "ok" and record.machine_state]
    if len(fine) < max(len(others), LEAST_LAUNCHES):
        return [], list(launches)
    return failed, others


def _failed_words(record: Record) -> str:
    why = f" ({record.reason})" if record.reason else ""
    return f"launch {record.launch} ended as {record.status}{why} and is set aside"


def _verdict(
    steps: Mapping[int, Sequence[float]],
    quiet: Mapping[int, Sequence[float]],
    causes: Sequence[str],
) -> tuple[Verdict, str]:
    disturbed = f"{len(causes)} of {len(steps)} launches disturbed ({causes[0]})" if causes else ""
    if len(steps) < LEAST_LAUNCHES:
        return "unsettled", "a single launch shows no spread between launches"
    if len(quiet) < LEAST_LAUNCHES:
        return "unsettled", disturbed
    interval = step_interval(list(quiet.values()))
    if interval.half_width > TOLERANCE:
        words = f"{_range_words(quiet)}, {_interval_words(interval)}"
        return "unsettled", f"{words}; {disturbed}" if causes else words
    if causes:
        return "noisy", f"{disturbed} and set aside"
    if _between(quiet.values()) > TOLERANCE:
        return "noisy", f"{_range_words(quiet)}, {_interval_words(interval)}"
    return "steady", ""


def _range_words(steps: Mapping[int, Sequence[float]]) -> str:
    medians = [statistics.median(seconds) for seconds in steps.values()]
    return f"{len(medians)} launches took {min(medians):.3f} to {max(medians):.3f} s a step"


def _interval_words(interval: Interval) -> str:
    percent = f"{interval.half_width:.0%}"
    return f"their interval is {interval.low:.3f} to {interval.high:.3f} s, up to {percent} off"


def _between(steps: Collection[Sequence[float]]) -> float:
    medians = [statistics.median(seconds) for seconds in steps]
    return max(medians) / min(medians) - 1


def _within(steps: Collection[Sequence[float]]) -> float:
    spreads = [spread for seconds in steps if (spread := metrics.spread(seconds)) is not None]
    return statistics.median(spread.relative for spread in spreads)


def disturbance(record: Record, fastest_kernel: Mapping[int, float]) -> str:
    """What disturbed this launch, in words; "" if nothing that was read did."""
    state = record.machine_state
    if state is None:
        return ""
    if state.taken_share > TAKEN_SHARE:
        return f"others took {state.taken_share:.0%} of the cores of launch {record.launch}"
    fastest = fastest_kernel.get(state.wanted_cores)
    slower = 0.0 if fastest is None else max(state.kernel_seconds, default=0.0) / fastest - 1
    if slower > KERNEL_SLOWER:
        return f"the kernel beside launch {record.launch} was {slower:.0%} slower than the fastest"
    return f"launch {record.launch}: {state.fault}" if state.fault else ""


def rounds(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The launches with times of each round in which two rows or more took turns."""
    timed = [
        record
        for record in records
        if record.round is not None
        and record.status == "ok"
        and metrics.measured_seconds(record.steps)
    ]
    by_round = group_by(timed, lambda record: str(record.round))
    return {name: launches for name, launches in by_round.items() if len(launches) > 1}


def relative_steps(records: Sequence[Record]) -> dict[tuple[str, int], list[float]]:
    """Seconds of measured steps as if the machine had had one speed, by row and launch.

    The speed of a turn is the median over its rows of a step over the typical step of that row. Of
    three rows or more, one disturbed step moves the speed of its turn little; of two rows, half of
    the disturbance counts as speed. Typical steps are those without the speed, so both are refined
    in turns: rounds of different rows may run at different speeds. Launches outside rounds are left
    out.
    """
    known = rounds(records)
    steps = {
        (one.row, one.launch): metrics.measured_seconds(one.steps)
        for launches in known.values()
        for one in launches
    }
    relative = dict(steps)
    for _ in range(REFINEMENTS):
        by_row = group_by(relative, lambda key: key[0])
        typical = {
            row: statistics.median(seconds for key in keys for seconds in relative[key])
            for row, keys in by_row.items()
        }
        for launches in known.values():
            keys = [(one.row, one.launch) for one in launches]
            turns = zip(*(steps[key] for key in keys), strict=False)
            speeds = [
                statistics.median(
                    seconds / typical[row] for (row, _), seconds in zip(keys, turn, strict=True)
                )
                for turn in turns
            ]
            for key in keys:
                pairs = zip(steps[key], speeds, strict=False)
                relative[key] = [seconds / speed for seconds, speed in pairs]
    return relative


def ratios_by_turn(row: Record, compared: Record) -> list[float]:
    """The step of a row over that of the compared row, for each turn of one round."""
    assert row.round is not None, "it took turns"
    assert row.round == compared.round, "with the other"
    steps = (metrics.measured_seconds(one.steps) for one in (row, compared))
    return [over / under for over, under in zip(*steps, strict=False)]

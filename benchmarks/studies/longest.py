"""The longest sequence that each row can train under a workload's device limit, by real launches.

A probe is one launch up to its accounted step, under the enforced limit. The result of a row holds
for memory that grows with the length: it fits, and one step of lengths more does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.job import Memory, Status
from benchmarks.launch import run
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs
from benchmarks.launch.run import Options
from benchmarks.longest_fit import Answer, longest_fit
from benchmarks.records.provenance import machine
from benchmarks.records.record import Record
from benchmarks.rows import committed_grids
from benchmarks.rows.assign import assign, grid_assignments, recheck
from benchmarks.rows.row import Configuration, Row
from benchmarks.studies.longest_result import Found, Longest, Trial
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

STEP_TOKENS = 256
"""Lengths are multiples of this and of 2 x ranks, which every system can split."""

AT_MOST_FACTOR = 8
"""Unless told otherwise no search asks for more than so many times the workload's own length: a
step's time grows with the square of it."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a row: its assignment at any length, and its known peak in bytes, if any.

    The peak is that at the workload's own length, without a limit.
    """

    row: Row
    label: str
    at: Callable[[Workload], Configuration]
    known_peak_bytes: int | None = None


@dataclass(kw_only=True)
class Prober:
    """Asks by launching and keeps what came of it. The folder of `inputs` gets the records."""

    inputs: Inputs
    options: Options
    display: Display
    at_most_tokens: int
    launched: list[Record] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own_tokens = self.inputs.workload.sequence_tokens

    def ask(self, point: Point, tokens: int) -> Answer:
        """Does this setting train a sequence of that length under the limit?"""
        workload = replace(self.inputs.workload, sequence_tokens=tokens)
        assignment = self._judged(point, workload)
        if assignment.status is not None:
            self._note(point, assignment, tokens, assignment.status, assignment.reason)
            return Answer(fits=False)
        self.inputs = run.with_workload(self.inputs, workload, self.options)
        probe = replace(assignment, row=replace(point.row, label=f"{point.label} {tokens}"))
        record = run.launch_row(self.inputs, probe, 1, self.options, self.display)
        self.launched.append(record)
        self._note(point, assignment, tokens, record.status, record.reason, record.memory)
        if record.status != "ok":
            return Answer(fits=False)
        limit_bytes = workload.device_memory_bytes
        assert limit_bytes is not None
        return Answer(fits=True, guess_tokens=guess_tokens(record.memory, tokens, limit_bytes))

    def _judged(self, point: Point, workload: Workload) -> Configuration:
        """The setting at that length; with a status where no launch is needed to know its end."""
        assignment = point.at(workload)
        peak, limit_bytes = point.known_peak_bytes, workload.device_memory_bytes
        longer = workload.sequence_tokens >= self.own_tokens
        if assignment.status is None and peak and limit_bytes and peak > limit_bytes and longer:
            words = f"its known peak at {self.own_tokens:,} tokens is {format_bytes(peak)}"
            return replace(assignment, status="oom", reason=f"not launched: {words}")
        return assignment

    def _note(
        self,
        point: Point,
        assignment: Configuration,
        tokens: int,
        status: Status,
        reason: str,
        memory: Sequence[Memory] | None = None,
    ) -> None:
        peaks = [m.tracked_peak_bytes for m in memory or () if m.tracked_peak_bytes is not None]
        self.trials.append(
            Trial(
                row=point.row.label,
                settings_text=assignment.settings_text,
                tokens=tokens,
                status=status,
                reason=reason,
                peak_device_bytes=max(peaks, default=None),
                launched=memory is not None,
            )
        )


def guess_tokens(memory: Sequence[Memory], tokens: int, limit_bytes: int) -> int | None:
    """Where the fullest rank reaches the limit, if all but the model state grows with the length.

    None where nobody counted.
    """
    guesses = []
    for rank in memory:
        peak, before = rank.tracked_peak_bytes, rank.tracked_live_before_bytes
        if peak is not None and before is not None and peak > before:
            guesses.append(tokens * (limit_bytes - before) // (peak - before))
    return min(guesses, default=None)


def step_tokens(workload: Workload) -> int:
    """The lengths that are tried are multiples of this."""
    return math.lcm(STEP_TOKENS, 2 * workload.cluster.ranks)


def points_of(row: Row, workload: Workload) -> list[Point]:
    """The settings of a row, leanest in memory first. SPPO plans every length anew.

    The same layout is that of SPPO at the workload's own length.
    """
    if row.choosing == "planned":
        return [Point(row=row, label=row.label, at=lambda longer: assign(row, longer))]
    if row.choosing != "tuned":
        fixed = assign(row, workload)
        return [Point(row=row, label=row.label, at=lambda longer: recheck(fixed, longer))]
    free = committed_grids.grid(row.system, workload, None)
    return [
        _fixed(row, f"{row.label} {number:02d}", assignment, free.peak_bytes(assignment))
        for number, assignment in enumerate(
            committed_grids.leanest_first(grid_assignments(row.system, workload), free), start=1
        )
    ]


def _fixed(row: Row, label: str, assignment: Configuration, peak_bytes: int | None) -> Point:
    return Point(
        row=row,
        label=label,
        at=lambda longer: recheck(assignment, longer),
        known_peak_bytes=peak_bytes,
    )


def planned_tokens(point: Point, workload: Workload, step: int, at_most_tokens: int) -> int:
    """The longest for which SPPO has a plan, one step at least; nothing is launched."""

    def plans(tokens: int) -> Answer:
        return Answer(fits=point.at(replace(workload, sequence_tokens=tokens)).status is None)

    start = first_tokens(workload, step)
    return max(step, _longest(plans, start, step, at_most_tokens, stride=start))


def first_tokens(workload: Workload, step: int) -> int:
    """The workload's own length, as a multiple of the step."""
    return max(step, workload.sequence_tokens // step * step)


def _longest(
    ask: Callable[[int], Answer],
    start: int,
    step: int,
    at_most_tokens: int,
    stride: int,
    floor: int = 0,
) -> int:
    return longest_fit(
        ask,
        start_tokens=start,
        step_tokens=step,
        most_tokens=max(step, at_most_tokens // step * step),
        stride_tokens=stride,
        floor_tokens=floor,
    )


def search_row(points: Sequence[Point], prober: Prober, step: int) -> Found:
    """The best of a row's settings: the first is searched, each other must beat it by a step."""
    trials, launches = len(prober.trials), len(prober.launched)
    most = prober.at_most_tokens
    best, longest = points[0], 0
    for point in points:

        def ask(tokens: int, point: Point = point) -> Answer:
            return prober.ask(point, tokens)

        if point is not points[0]:
            if longest + step > prober.at_most_tokens:
                break
            found = _longest(ask, longest + step, step, most, stride=step, floor=longest)
        elif point.row.choosing == "planned":
            start = planned_tokens(point, prober.inputs.workload, step, most)
            found = _longest(ask, start, step, most, stride=step)
        else:
            start = first_tokens(prober.inputs.workload, step)
            found = _longest(ask, start, step, most, stride=start)
        if found > longest:
            best, longest = point, found
    workload = replace(prober.inputs.workload, sequence_tokens=longest or prober.own_tokens)
    assignment = best.at(workload)
    own = prober.trials[trials:]
    return Found(
        system=best.row.system,
        row=best.row.label,
        settings=assignment.settings,
        settings_text=assignment.settings_text,
        longest_tokens=longest,
        peak_device_bytes=next((t.peak_device_bytes for t in own if _fits(t, longest)), None),
        fails_with=_fails_with(own, longest) or f"not asked beyond {most:,} tokens",
        points=len(points),
        launches=len(prober.launched) - launches,
    )


def _fits(trial: Trial, tokens: int) -> bool:
    return trial.status == "ok" and trial.tokens == tokens


def _fails_with(trials: Sequence[Trial], longest: int) -> str:
    """The first failure above the longest; a launched one rather than a known one."""
    longer = [trial for trial in trials if trial.tokens > longest and trial.status != "ok"]
    if not longer:
        return ""
    first = min(longer, key=lambda trial: (trial.tokens, not trial.launched))
    return f"{first.status}: {first.reason or 'no reason given'}"


def search(
    workload: Workload,
    rows: Sequence[Row],
    parent: Path,
    options: Options,
    display: Display,
    at_most_tokens: int | None = None,
) -> tuple[Longest, list[Record], Path]:
    """All rows one after another: the result, the probes' records, judged, and their folder.

    Raises ValueError or OSError before the first launch, or on text that is too short.
    """
    limit_bytes = workload.device_memory_bytes
    assert limit_bytes is not None, "the caller has asked for a limit"
    step = step_tokens(workload)
    points = [points_of(row, workload) for row in rows]
    directory = run.new_directory(parent, workload)
    prober = Prober(
        inputs=run.prepare(workload, options, directory),
        options=options,
        display=display,
        at_most_tokens=at_most_tokens or AT_MOST_FACTOR * workload.sequence_tokens,
    )
    environment = prober.inputs.environment
    try:
        found = []
        for own in points:
            prober.inputs = run.with_workload(prober.inputs, workload, options)
            found.append(search_row(own, prober, step))
    finally:
        done = judged(directory, prober.launched, display)
        run.remove_inputs(prober.inputs)
    one = done[0] if done else None
    return (
        Longest(
            workload=workload.name,
            device_memory_bytes=limit_bytes,
            step_tokens=step,
            machine="nothing was launched" if one is None else machine(one),
            versions=environment.get("versions", {}),
            commit=environment.get("commit") or "unknown",
            dirty=bool(environment.get("dirty")),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            rows=found,
            trials=prober.trials,
        ),
        done,
        directory,
    )


def judged(directory: Path, done: Sequence[Record], display: Display) -> list[Record]:
    """Launches of one length did the same work, or are marked as a mismatch, on disk too."""
    lengths = sorted({record.workload.sequence_tokens for record in done})
    return [
        record
        for length in lengths
        for record in run.gate(
            directory,
            [record for record in done if record.workload.sequence_tokens == length],
            display,
        )
    ]

"""The longest sequence that each row trains under a workload's device limit, by real launches.

A trial is one launch up to its accounted step, under the enforced limit. The result of a row holds
for memory that grows with the length: it fits, and one step of lengths more does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.data.checks import check_length
from benchmarks.data.formats import STDLIB, open_source
from benchmarks.data.source import named
from benchmarks.launch import preparing, run
from benchmarks.launch.gate import gate
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.launch.recording import Inputs
from benchmarks.longest_fit import Answer, guess_tokens, longest_fit
from benchmarks.records.provenance import machine
from benchmarks.records.record import Record, group_by
from benchmarks.rows import known_grids
from benchmarks.rows.assign import assign, grid_assignments, recheck
from benchmarks.rows.row import Configuration, Row
from benchmarks.studies.longest_result import LongestRow, LongestSequences, LongestTrial
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

STEP_TOKENS = 256
"""Lengths are multiples of this and of 2 x ranks, which every system can split."""

AT_MOST_FACTOR = 8
"""A search ends at this multiple of the workload's length, unless the user gives another end. The
time of a step grows with the square of the length."""


OnTrial = Callable[[LongestTrial], None]


@dataclass(frozen=True, kw_only=True)
class SearchedSetting:
    """One setting of a row: its configuration at any length, and its known peak in bytes, if any.

    The peak is the one at the workload's own length, without a limit.
    """

    row: Row
    label: str
    at: Callable[[Workload], Configuration]
    known_peak_bytes: int | None = None


@dataclass(kw_only=True)
class Prober:
    """Launches one length under one setting, and keeps records and trials.

    The folder of `inputs` gets the records. on_trial: gets every trial at once.
    """

    inputs: Inputs
    options: Options
    display: Display
    at_most_tokens: int
    launched: list[Record] = field(default_factory=list)
    trials: list[LongestTrial] = field(default_factory=list)
    on_trial: OnTrial | None = None

    def __post_init__(self) -> None:
        self.own_tokens = self.inputs.workload.sequence_tokens

    def ask(self, setting: SearchedSetting, tokens: int) -> Answer:
        """Whether this setting trains a sequence of that length under the limit."""
        workload = replace(self.inputs.workload, sequence_tokens=tokens)
        limit_bytes = workload.device_memory_bytes
        assert limit_bytes is not None
        configuration = setting.at(workload)
        peak_bytes = setting.known_peak_bytes or 0
        if configuration.status is None and tokens >= self.own_tokens and peak_bytes > limit_bytes:
            words = f"its known peak at {self.own_tokens:,} tokens is {format_bytes(peak_bytes)}"
            configuration = replace(configuration, status="oom", reason=f"not launched: {words}")
        launched = configuration.status is None
        result = self._launch(setting, configuration, workload) if launched else configuration
        memory = result.memory if isinstance(result, Record) else []
        peaks = [rank.tracked_peak_bytes for rank in memory if rank.tracked_peak_bytes]
        assert result.status is not None
        self.trials.append(
            LongestTrial(
                row=setting.row.label,
                settings_text=configuration.settings_text,
                tokens=tokens,
                status=result.status,
                reason=result.reason,
                peak_device_bytes=max(peaks, default=None),
                launched=launched,
            )
        )
        if self.on_trial is not None:
            self.on_trial(self.trials[-1])
        # A rank without counts has not grown, so no guess comes from that rank.
        sizes = [
            (rank.tracked_peak_bytes or 0, rank.tracked_live_before_bytes or 0) for rank in memory
        ]
        guess = guess_tokens(sizes, tokens, limit_bytes)
        return Answer(fits=result.status == "ok", guess_tokens=guess)

    def _launch(
        self, setting: SearchedSetting, configuration: Configuration, workload: Workload
    ) -> Record:
        self.inputs = preparing.with_workload(self.inputs, workload, self.options)
        label = f"{setting.label} {workload.sequence_tokens}"
        trial = replace(configuration, row=replace(setting.row, label=label, name=""))
        record = run.launch_row(self.inputs, trial, 1, self.options, self.display)
        self.launched.append(record)
        return record


def step_tokens(workload: Workload) -> int:
    """The step between lengths, which every system can split."""
    return math.lcm(STEP_TOKENS, 2 * workload.cluster.ranks)


def settings_of(row: Row, workload: Workload) -> list[SearchedSetting]:
    """The settings of a row, least memory first. SPPO plans every length separately.

    A row in SPPO's layout keeps the layout of the workload's own length.
    """
    if row.choosing == "planned":
        return [SearchedSetting(row=row, label=row.label, at=partial(assign, row))]
    if row.choosing != "tuned":
        fixed = assign(row, workload)
        return [SearchedSetting(row=row, label=row.label, at=partial(recheck, fixed))]
    free = known_grids.grid(row.system, workload, None)
    grid = known_grids.leanest_first(grid_assignments(row.system, workload), free)
    return [
        SearchedSetting(
            row=row,
            label=f"{row.label} {number:02d}",
            at=partial(recheck, configuration),
            known_peak_bytes=free.peak_bytes(configuration),
        )
        for number, configuration in enumerate(grid, start=1)
    ]


def _leanest(
    settings: Sequence[SearchedSetting], workload: Workload, most: int | None
) -> Sequence[SearchedSetting]:
    """The first settings that the library does not refuse at the workload's own length."""
    if most is None or len(settings) <= most:
        return settings
    able = [setting for setting in settings if setting.at(workload).status is None]
    return (able or settings)[:most]


def search_row(settings: Sequence[SearchedSetting], prober: Prober, step: int) -> LongestRow:
    """The best of a row's settings: after the first each must beat the best by a step."""
    trials, launches = len(prober.trials), len(prober.launched)
    most = max(step, prober.at_most_tokens // step * step)
    best, longest = settings[0], 0
    start, stride = _start(best, prober.inputs.workload, step, most)
    for setting in settings:
        tokens = longest_fit(
            partial(prober.ask, setting),
            start_tokens=start,
            step_tokens=step,
            most_tokens=most,
            stride_tokens=stride,
            floor_tokens=longest,
        )
        if tokens > longest:
            best, longest = setting, tokens
        start, stride = longest + step, step
        if start > prober.at_most_tokens:
            break
    workload = replace(prober.inputs.workload, sequence_tokens=longest or prober.own_tokens)
    configuration = best.at(workload)
    row_trials = prober.trials[trials:]
    peaks = {trial.tokens: trial.peak_device_bytes for trial in row_trials if trial.status == "ok"}
    unasked = f"not asked beyond {prober.at_most_tokens:,} tokens"
    return LongestRow(
        system=best.row.system,
        row=best.row.label,
        settings=configuration.settings,
        settings_text=configuration.settings_text,
        longest_tokens=longest,
        peak_device_bytes=peaks.get(longest),
        fails_with=_fails_with(row_trials, longest) or unasked,
        points=len(settings),
        launches=len(prober.launched) - launches,
    )


def _start(setting: SearchedSetting, workload: Workload, step: int, most: int) -> tuple[int, int]:
    """The first length of a search and its stride, in tokens.

    The search of a planned row starts at the longest length with a plan; nothing is launched for
    that. Other rows start at the workload's own length.
    """
    own = max(step, workload.sequence_tokens // step * step)
    if setting.row.choosing != "planned":
        return own, own

    def has_plan(tokens: int) -> Answer:
        return Answer(fits=setting.at(replace(workload, sequence_tokens=tokens)).status is None)

    planned = longest_fit(
        has_plan, start_tokens=own, step_tokens=step, most_tokens=most, stride_tokens=own
    )
    return max(step, planned), step


def _fails_with(trials: Sequence[LongestTrial], longest: int) -> str:
    """The first failure above the longest, of a launch if there is one; "" without any."""
    longer = [trial for trial in trials if trial.tokens > longest and trial.status != "ok"]
    if not longer:
        return ""
    first = min(longer, key=lambda trial: (trial.tokens, not trial.launched))
    return f"{first.status}: {first.reason or 'no reason given'}"


def search(
    workload: Workload,
    rows: Sequence[Row],
    directory: Path,
    options: Options,
    display: Display,
    at_most_tokens: int | None = None,
    most_settings: int | None = None,
    on_trial: OnTrial | None = None,
    team: Team = ALONE,
) -> tuple[LongestSequences, list[Record]]:
    """All rows in turn: the result, and the judged records of all launches.

    directory: gets the records. most_settings: of a tuned row, those of least memory; None: all.
    on_trial: gets every trial at once. team: the other nodes.

    Raises ValueError or OSError before the first launch, or on text that is too short.
    """
    limit_bytes = workload.device_memory_bytes
    assert limit_bytes is not None, "the caller has asked for a limit"
    step = step_tokens(workload)
    settings = [_leanest(settings_of(row, workload), workload, most_settings) for row in rows]
    at_most_tokens = at_most_tokens or AT_MOST_FACTOR * workload.sequence_tokens
    if workload.text != STDLIB:
        with named(workload.text):
            check_length(open_source(workload, at_most_tokens + 1), at_most_tokens)
    prober = Prober(
        inputs=preparing.prepare(workload, options, directory, team),
        options=options,
        display=display,
        at_most_tokens=at_most_tokens,
        on_trial=on_trial,
    )
    environment = prober.inputs.environment
    results = []
    try:
        for row_settings in settings:
            prober.inputs = preparing.with_workload(prober.inputs, workload, options)
            results.append(search_row(row_settings, prober, step))
    finally:
        done = judged(directory, prober.launched, display)
        preparing.remove_inputs(prober.inputs)
    result = LongestSequences(
        workload=workload.name,
        device_memory_bytes=limit_bytes,
        step_tokens=step,
        machine=machine(done[0]) if done else "nothing was launched",
        versions=environment.get("versions", {}),
        commit=environment.get("commit") or "unknown",
        dirty=bool(environment.get("dirty")),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        rows=results,
        trials=prober.trials,
    )
    return result, done


def judged(directory: Path, done: Sequence[Record], display: Display) -> list[Record]:
    """The records by length; launches of one length that did other work become a mismatch."""
    by_length = group_by(done, lambda record: record.workload.sequence_tokens)
    return [
        record
        for length in sorted(by_length)
        for record in gate(directory, by_length[length], display)
    ]

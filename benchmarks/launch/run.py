"""A whole run: the reference, interleaved launches with their records, the gate.

Launches are independent: each has processes of its own, and its record is on disk before the next
launch starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.job import LEAST_MESSAGE_TIMEOUT_SECONDS, Job
from benchmarks.launch import planned, resuming, time_limits
from benchmarks.launch.gate import gate, name_of
from benchmarks.launch.machine.watch import MachineWatch
from benchmarks.launch.options import REFERENCE_STEPS, STEPS_OF_A_POINT, Options
from benchmarks.launch.preparing import remove_inputs
from benchmarks.launch.progress import Display
from benchmarks.launch.ranks.outcome import Outcome
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.launch.recording import Inputs, make_record
from benchmarks.launch.rounds.further import Budget
from benchmarks.launch.rounds.one_round import Instead, Round
from benchmarks.launch.rounds.turns import Turn, with_turns
from benchmarks.records import metrics
from benchmarks.records import record as records
from benchmarks.records.machine_errors import records_so_far
from benchmarks.records.record import Record
from benchmarks.records.store import is_text
from benchmarks.rows.references import references
from benchmarks.rows.row import Configuration


def new_directory(parent: Path, name: str) -> Path:
    """A new folder, named by UTC time and this name.

    Raises OSError, or ValueError for a place whose name no record can hold.
    """
    if not is_text(parent.absolute()):
        raise ValueError(f"{str(parent.absolute())!r} is not UTF-8; name another with --output DIR")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}"
    for number in range(1, 100):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path.resolve()
    raise FileExistsError(f"{parent / name}: 99 runs in one second; look at the clock")


Narrow = Callable[[Sequence[Configuration], Sequence[Record]], Sequence[Configuration]]
"""The rows to launch again, after the first launch of each."""


def run(
    inputs: Inputs,
    configurations: Sequence[Configuration],
    options: Options,
    display: Display,
    narrow: Narrow | None = None,
    instead: Instead | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """The reference, launch 1 of every row, launch 2 in reverse order, and so on, then the gate.

    The rows of a round take their measured steps in turn, where the options say so. Then the
    launches that `narrow` chooses by have few steps, and no turns. Before the
    gate, further launches of rows with unsettled times, within the budget. Every record is on disk
    at the end, also after an interrupt. Weights and tokens are removed. on_record: gets every
    record before the gate.
    """
    done: list[Record] = []
    budget = Budget(seconds=options.budget_seconds)

    brief = replace(options, measured_steps=min(options.measured_steps, STEPS_OF_A_POINT))

    is_brief = narrow is not None and options.in_turns

    def launch(configuration: Configuration, number: int, *turn: Turn) -> Record:
        how = brief if is_brief and number == 1 else options
        return launch_row(inputs, configuration, number, how, display, *turn)

    def note(record: Record) -> None:
        done.append(record)
        budget.note_launch(record)
        if on_record is not None:
            on_record(record)

    for card in unknown_cards(inputs):
        display.note(
            f"{card} is not in the table of peaks: MFU is against a measured matrix product. A "
            "line in DATASHEET of benchmarks/records/metrics.py makes the card known"
        )
    try:
        for reference in references(inputs.workload):
            note(launch_row(inputs, reference, 1, options, display))
        for number in range(1, options.launches + 1):
            if number == 2 and narrow is not None:
                configurations = narrow(configurations, done)
            current = list(configurations)
            one = Round(number=number, launch=launch, instead=instead, note=display.note)
            is_whole_grid = narrow is not None and number == 1
            in_turns = options.in_turns and not is_whole_grid
            before = len(done)
            with closing(one.launches(current, in_turns=in_turns)) as launched:
                for place, configuration, record in launched:
                    current[place] = configuration
                    note(record)
            if in_turns:
                done[before:] = one.in_order(done[before:])
            configurations = current
        number = options.launches + 1
        while repeated := budget.next_round(
            configurations, done, display, is_recorded := partial(_is_recorded, inputs, number)
        ):
            if options.in_turns:
                one = Round(number=number, launch=launch, note=display.note)
                with closing(one.launches(repeated, in_turns=True)) as launched:
                    for _, _, record in launched:
                        note(record)
            else:
                order = repeated if number % 2 else repeated[::-1]
                for configuration in budget.affordable(order, done, display, is_recorded):
                    note(launch(configuration, number))
            number += 1
    finally:
        try:
            choosing = {name_of(each) for each in done if is_brief and each.launch == 1}
            judged = gate(inputs.directory, done, display, choosing)
        finally:
            remove_inputs(inputs)
    return judged


def unknown_cards(inputs: Inputs) -> list[str]:
    """The GPUs of a workload on CUDA whose datasheet peak is not known."""
    if inputs.workload.cluster.device != "cuda":
        return []
    names = sorted(set(inputs.environment.get("gpus") or ()))
    return [name for name in names if metrics.datasheet_peak(name) is None]


def _is_recorded(inputs: Inputs, number: int, configuration: Configuration) -> bool:
    folder = inputs.directory / f"{configuration.row.slug}-{number}"
    return (folder / records.FILE_NAME).exists()


def launch_row(
    inputs: Inputs,
    configuration: Configuration,
    number: int,
    options: Options,
    display: Display,
    turn: Turn | None = None,
) -> Record:
    """Launch one row once and write its record; or only read the record of this very launch.

    turn: waits before each measured step. Raises ResumeError where a resumed launch has another
    workload, settings or inputs.
    """
    clock = time.monotonic if turn is None else turn.clock
    started, began = datetime.now(UTC), clock()
    if options.time_limit_seconds is None:
        limit_seconds = time_limits.limit_seconds(
            inputs.workload, configuration, steps_of(configuration, options)
        )
        options = replace(options, time_limit_seconds=limit_seconds)
    job = make_job(inputs, configuration, number, options)
    job = job if turn is None else with_turns(job, turn)
    earlier = resuming.recorded(inputs, configuration, job)
    if earlier is not None:
        display.note(f"{name_of(earlier)}: {earlier.status}, measured before")
        return earlier
    resuming.clear(Path(job.output_directory))
    label = f"{configuration.row.label}, launch {number}"
    display.start(label, len(job.phases))
    watch = MachineWatch(job, launched=configuration.status is None)
    if configuration.status is not None:
        outcome = Outcome(status=configuration.status, reason=configuration.reason, reports=[])
    else:
        if inputs.make_files is not None:
            inputs.make_files()
        assert options.time_limit_seconds is not None, "given or derived above"
        step = partial(display.step, label)
        launch_options = LaunchOptions(
            environment=configuration.environment,
            time_limit_seconds=options.time_limit_seconds,
            on_progress=watch.reporting(step),
            team=inputs.team,
        )
        if turn is None:
            outcome = planned.launch(job, launch_options)
        else:
            with turn.given_to(job):
                launch_options = turn.options(launch_options, step, watch.reporting)
                outcome = planned.launch(job, launch_options)
    record = watch.end(make_record(inputs, configuration, job, outcome, started))
    record = msgspec.structs.replace(record, launch_seconds=clock() - began)
    if turn is not None and turn.is_taken:
        record = msgspec.structs.replace(record, round=turn.round)
    with records_so_far(inputs.directory):
        records.write(record, Path(job.output_directory) / records.FILE_NAME)
    display.end(label, record.status, record.reason, record.step_seconds_median)
    return record


def steps_of(configuration: Configuration, options: Options) -> int:
    """All steps of a launch of this row."""
    return REFERENCE_STEPS if configuration.row.is_reference else options.steps


def make_job(inputs: Inputs, configuration: Configuration, number: int, options: Options) -> Job:
    """The job of this launch. The reference has one rank, no limit and no accounted step."""
    workload = inputs.workload
    job = Job(
        workload=workload,
        system=configuration.row.system,
        row=configuration.row.label,
        launch=number,
        settings=configuration.settings,
        weights_path=str(inputs.weights_path),
        tokens_path=str(inputs.tokens_path),
        output_directory=str(inputs.directory / f"{configuration.row.slug}-{number}"),
        ranks=workload.cluster.ranks,
        warmup_steps=options.warmup_steps,
        measured_steps=options.measured_steps,
        threads_per_rank=options.threads_per_rank,
        kernels=inputs.kernels,
        message_timeout_seconds=max(
            LEAST_MESSAGE_TIMEOUT_SECONDS, options.time_limit_seconds or 0.0
        ),
    )
    if not configuration.row.is_reference:
        return job
    return msgspec.structs.replace(
        job,
        workload=replace(workload, device_memory_bytes=None),
        ranks=1,
        warmup_steps=0,
        measured_steps=REFERENCE_STEPS - 1,
        account=False,
        threads_per_rank=inputs.environment["cores"],
    )

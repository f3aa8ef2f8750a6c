"""A whole run: inputs once, the reference, interleaved launches, a record of each, the gate.

One launch cannot harm another: each is a process family of its own, and its record is on disk
before the next one starts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.job import LEAST_MESSAGE_TIMEOUT_SECONDS, Job, Status
from benchmarks.launch import planned
from benchmarks.launch.outcome import Outcome
from benchmarks.launch.processes import Nodes
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs, as_mismatch, make_record
from benchmarks.records import equal_work
from benchmarks.records import record as records
from benchmarks.records.record import Record, Text
from benchmarks.rows.assign import assign
from benchmarks.rows.row import REFERENCE, Configuration, slug
from benchmarks.worker import matmul_peak
from sppo.config.workload import Workload

REFERENCE_STEPS = 4
"""Optimizer steps of the reference: the throw-away step and three full ones."""

UNWANTED: frozenset[Status] = frozenset({"failed", "timeout", "mismatch"})
"""Ends that are no result: the command exits 1."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How each row is launched. The time limit is of one launch, in seconds.

    Without warm-up and measured steps a launch ends after its accounted step, untimed.
    """

    launches: int = 2
    warmup_steps: int = 1
    measured_steps: int = 5
    time_limit_seconds: float = 120.0
    threads_per_rank: int = 1
    nodes: Nodes = field(default_factory=Nodes)

    def __post_init__(self) -> None:
        for name, least in (("launches", 1), ("measured_steps", 0), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}")
        if self.time_limit_seconds <= 0:
            raise ValueError("the time limit must be positive")

    @property
    def steps(self) -> int:
        """All steps of a launch: throw-away, accounted, warm-up, measured."""
        return 2 + self.warmup_steps + self.measured_steps


def new_directory(parent: Path, workload: Workload) -> Path:
    """A folder for this run: UTC time and workload; never one that exists."""
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{workload.name}"
    for number in range(1, 100):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path.resolve()
    raise FileExistsError(f"{parent / name}: 99 runs in one second; look at the clock")


def prepare(workload: Workload, options: Options, directory: Path) -> Inputs:
    """Write weights and tokens, measure the peak, describe the machine.

    Raises ValueError or OSError on text that cannot be used. The folder is gone after any failure.
    """
    from benchmarks.environment import describe_environment
    from benchmarks.worker.tokens import token_file
    from benchmarks.worker.weights import initial_weights, save_weights, torch_dtype

    steps = max(options.steps, REFERENCE_STEPS)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, directory)
        source = token_file(workload, steps, directory / "tokens.npy")
        dtype = torch_dtype(workload.dtype)
        weights = initial_weights(workload.model, workload.seed, dtype)
        save_weights(weights, directory / "weights.pt")
        on_cpu = workload.cluster.device == "cpu"
        inputs = Inputs(
            workload=workload,
            directory=directory,
            text=Text(description=source.description, sha256=source.sha256),
            cpu_peak=matmul_peak.measured_peak(options.threads_per_rank) if on_cpu else None,
            environment=describe_environment(),
        )
        undo.pop_all()
    return inputs


def with_workload(inputs: Inputs, workload: Workload, options: Options) -> Inputs:
    """The same weights under another length, limit or number of sequences; tokens are rewritten.

    Raises ValueError on text that is too short.
    """
    from benchmarks.worker.tokens import token_file

    before = inputs.workload
    if (workload.sequence_tokens, workload.sequences_per_step) == (
        before.sequence_tokens,
        before.sequences_per_step,
    ):
        return replace(inputs, workload=workload)
    source = token_file(workload, max(options.steps, REFERENCE_STEPS), inputs.tokens_path)
    text = Text(description=source.description, sha256=source.sha256)
    return replace(inputs, workload=workload, text=text)


Narrow = Callable[[Sequence[Configuration], Sequence[Record]], Sequence[Configuration]]
"""Which rows are worth further launches, after the first launch of each."""


Instead = Callable[[Configuration], Configuration | None]
"""What to launch in place of a row whose launch was refused memory; None: its oom is the result."""


def run(
    inputs: Inputs,
    assignments: Sequence[Configuration],
    options: Options,
    display: Display,
    narrow: Narrow | None = None,
    instead: Instead | None = None,
) -> list[Record]:
    """The reference, then launch 1 of every row, launch 2 in reverse order, ..., then the gate.

    Every record is on disk when this returns, or when an interrupt passes through it; weights and
    tokens are not.
    """
    done: list[Record] = []
    try:
        done.append(launch_row(inputs, assign(REFERENCE, inputs.workload), 1, options, display))
        for number in range(1, options.launches + 1):
            if number == 2 and narrow is not None:
                assignments = narrow(assignments, done)
            current = list(assignments)
            # There and back again, so that no row is always the last.
            places = range(len(current))
            for place in places if number % 2 else reversed(places):
                if number > 1 and current[place].status is not None:
                    continue  # refused before any launch, and recorded once
                launched = _launch(inputs, current[place], number, options, display, instead)
                for current[place], record in launched:
                    done.append(record)
            assignments = current
    finally:
        done = gate(inputs.directory, done, display)
        remove_inputs(inputs)
    return done


def _launch(
    inputs: Inputs,
    assignment: Configuration,
    number: int,
    options: Options,
    display: Display,
    instead: Instead | None,
) -> Iterator[tuple[Configuration, Record]]:
    """This launch of a row; after an oom all launches so far of what takes its place."""
    record = launch_row(inputs, assignment, number, options, display)
    yield assignment, record
    while record.status == "oom" and instead is not None:
        other = instead(assignment)
        if other is None:
            return
        assignment = other
        for earlier in range(1, number + 1):
            record = launch_row(inputs, assignment, earlier, options, display)
            yield assignment, record
            if record.status == "oom":
                break


def remove_inputs(inputs: Inputs) -> None:
    """Weights and tokens can be made again; records cannot, and stay."""
    inputs.weights_path.unlink(missing_ok=True)
    inputs.tokens_path.unlink(missing_ok=True)


def launch_row(
    inputs: Inputs, assignment: Configuration, number: int, options: Options, display: Display
) -> Record:
    """Launch one row once and write its record."""
    started = datetime.now(UTC)
    job = make_job(inputs, assignment, number, options)
    label = f"{assignment.row.label}, launch {number}"
    display.start(label, _steps(job))
    if assignment.status is not None:
        outcome = Outcome(status=assignment.status, reason=assignment.reason, reports=[])
    else:
        outcome = planned.launch(
            job,
            environment=assignment.environment,
            time_limit_seconds=options.time_limit_seconds,
            on_progress=display.step,
            nodes=options.nodes if job.ranks > 1 else None,
        )
    record = make_record(inputs, assignment, job, outcome, started)
    records.write(record, Path(job.output_directory) / records.FILE_NAME)
    display.end(record.status, record.reason, record.step_seconds_median)
    return record


def _steps(job: Job) -> int:
    return 1 + int(job.account) + job.warmup_steps + job.measured_steps


def make_job(inputs: Inputs, assignment: Configuration, number: int, options: Options) -> Job:
    """What the ranks of this launch are told."""
    workload = inputs.workload
    job = Job(
        workload=workload,
        system=assignment.row.system,
        row=assignment.row.label,
        launch=number,
        settings=assignment.settings,
        weights_path=str(inputs.weights_path),
        tokens_path=str(inputs.tokens_path),
        output_directory=str(inputs.directory / f"{assignment.row.slug}-{number}"),
        ranks=workload.cluster.ranks,
        warmup_steps=options.warmup_steps,
        measured_steps=options.measured_steps,
        threads_per_rank=options.threads_per_rank,
        message_timeout_seconds=max(LEAST_MESSAGE_TIMEOUT_SECONDS, options.time_limit_seconds),
    )
    if assignment.row != REFERENCE:
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


def name_of(record: Record) -> str:
    """A launch, for people."""
    return f"{record.row}, launch {record.launch}"


def folder(record: Record) -> str:
    """The launch's folder inside its run's."""
    return f"{slug(record.row)}-{record.launch}"


def exit_code(done: Sequence[Record]) -> int:
    """0 where every launch ended in a result, else 1."""
    return int(any(record.status in UNWANTED for record in done))


def gate(directory: Path, done: Sequence[Record], display: Display) -> list[Record]:
    """Mark the launches that did other work as `mismatch`, on disk too."""
    fine = {name_of(record): record for record in done if record.status == "ok"}
    reference = next((r for r in fine.values() if r.system == "reference"), None)
    rows = {name: r.steps for name, r in fine.items() if r.system != "reference"}
    if not rows:
        return list(done)
    tolerance = equal_work.TOLERANCE[done[0].workload.dtype]
    different = equal_work.equal_work(
        rows, None if reference is None else reference.steps, tolerance=tolerance
    )
    judged = []
    for record in done:
        difference = different.get(name_of(record))
        if difference is not None and record.status == "ok":
            reason = f"{difference} (allowed: {tolerance:g} relative)"
            record = as_mismatch(record, reason)
            records.write(record, directory / folder(record) / records.FILE_NAME)
            display.note(f"{name_of(record)}: mismatch, {reason}")
        judged.append(record)
    return judged

"""The best row of each system at several values of one quantity: device limit or sequences a step.

Each value is a run of its own, with its reference and its gate, in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.job import Status
from benchmarks.launch import run
from benchmarks.launch.progress import Display
from benchmarks.launch.recording import Inputs
from benchmarks.launch.run import Options
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary
from benchmarks.rows import candidates
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import ROWS, Configuration, Row, settings_key
from sppo.config.sizes import limit_label
from sppo.config.workload import Workload

SCHEMA = "sppo-sweep/1"

Quantity = Literal["device-memory", "sequences-per-step"]

SYSTEMS = tuple(row.system for row in ROWS if row.choosing in ("tuned", "planned"))


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value of the swept quantity and what it makes of the workload."""

    label: str
    workload: Workload


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The best row of each system at one value; `folder` has its records, under the run's."""

    label: str
    device_memory_bytes: int | None
    sequences_per_step: int
    folder: str
    rows: tuple[Summary, ...]


def values(
    workload: Workload, quantity: Quantity, limits: Sequence[int | None], counts: Sequence[int]
) -> list[Value]:
    """What is measured, in the order that was asked for."""
    if quantity == "device-memory":
        return [
            Value(label=limit_label(limit), workload=workload.with_device_memory(limit))
            for limit in limits
        ]
    if limits:
        workload = workload.with_device_memory(limits[0])
    return [
        Value(label=str(count), workload=replace(workload, sequences_per_step=count))
        for count in counts
    ]


def rows_of(systems: Sequence[str]) -> list[Row]:
    """The best row of each system: the tuned one of a library."""
    return [row for row in ROWS if row.system in systems and row.choosing != "same layout"]


def measure(
    value: Value,
    rows: Sequence[Row],
    directory: Path,
    options: Options,
    display: Display,
    *,
    own_sequences: int,
    points: int,
    proven: Collection[str] = (),
) -> tuple[Measured, list[Record]]:
    """Choose, launch and compare at one value, in a new folder of `directory`.

    proven: settings that fit here, see `fitting_settings`. Raises ValueError or OSError before the
    first launch.
    """
    folder = directory / value.label
    folder.mkdir()
    inputs = run.prepare(value.workload, options, folder)
    display.note(f"{value.workload.name}, {value.label}:")
    try:
        assignments = [
            assignment
            for row in rows
            for assignment in chosen(row, inputs, options, display, own_sequences, points, proven)
        ]
        instead = Fallback(
            workload=value.workload, own_sequences=own_sequences, proven=frozenset(proven)
        )
        done = run.run(
            inputs, assignments, options, display, narrow=fastest_of_each, instead=instead
        )
    finally:
        run.remove_inputs(inputs)
    return (
        Measured(
            label=value.label,
            device_memory_bytes=value.workload.device_memory_bytes,
            sequences_per_step=value.workload.sequences_per_step,
            folder=value.label,
            rows=tuple(best(done, row) for row in rows),
        ),
        done,
    )


def fitting_settings(done: Sequence[Record], workload: Workload) -> set[str]:
    """Keys of the settings that ran in every launch with at most this device memory.

    What fits a tighter device fits a looser one, with as many sequences a step.
    """
    limit = workload.device_memory_bytes
    fit: set[str] = set()
    refused: set[str] = set()
    for record in done:
        other = record.workload
        tighter = limit is None or (
            other.device_memory_bytes is not None and other.device_memory_bytes <= limit
        )
        if tighter and other.sequences_per_step == workload.sequences_per_step:
            (fit if record.status == "ok" else refused).add(settings_key(record.settings))
    return fit - refused


def chosen(
    row: Row,
    inputs: Inputs,
    options: Options,
    display: Display,
    own_sequences: int,
    points: int,
    proven: Collection[str],
) -> list[Configuration]:
    """The settings of a row at this value: SPPO's plan, or what fits of a library's grid."""
    workload = inputs.workload
    if row.choosing == "planned":
        return [assign(row, workload)]
    try:
        grid = grid_assignments(row.system, workload)
    except ImportError:
        return [assign(row, workload)]  # refused, in the library's words
    found = candidates.of_system(row.system, workload, grid, own_sequences, proven)
    untimed = replace(options, launches=1, warmup_steps=0, measured_steps=0)

    def attempt(assignment: Configuration) -> Status:
        label = f"{row.label} fits {assignment.row.label.split()[-1]}"
        named = replace(assignment, row=replace(row, label=label))
        return run.launch_row(inputs, named, 1, untimed, display).status

    fitting = candidates.fitting(found, 1 if found.timed else points, attempt)
    if not fitting:
        reason = grid[0].reason if grid else "its grid is empty here"
        return [Configuration(row=row, status="unavailable", reason=reason)]
    if len(fitting) == 1:
        return [replace(fitting[0], row=row)]
    return [
        replace(assignment, row=replace(row, label=f"{row.label} {number}"))
        for number, assignment in enumerate(fitting, start=1)
    ]


def fastest_of_each(
    assignments: Sequence[Configuration], done: Sequence[Record]
) -> list[Configuration]:
    """After the first launch of each: of every system the fastest, or its first where none ran."""
    seconds = {
        record.row: record.step_seconds_median
        for record in done
        if record.step_seconds_median is not None
    }
    systems: dict[str, list[Configuration]] = {}
    for assignment in assignments:
        systems.setdefault(assignment.row.system, []).append(assignment)
    return [
        min(own, key=lambda assignment: seconds.get(assignment.row.label, float("inf")))
        for own in systems.values()
    ]


def best(done: Sequence[Record], row: Row) -> Summary:
    """The system's row at this value: ok, then launched most often, then fastest.

    It gets the row's own name, and the number of points that ran where there were more.
    """
    own = [summary for summary in tables.summaries(done) if summary.system == row.system]

    def order(summary: Summary) -> tuple[bool, int, float]:
        step = summary.step_seconds
        seconds = float("inf") if step is None else step.median
        return summary.status != "ok", -summary.launches, seconds

    summary = min(own, key=order)
    ran = sum(summary.status == "ok" for summary in own)
    grid = summary.grid if ran <= 1 else f"fastest of {ran}; {summary.grid}"
    return replace(summary, row=row.label, grid=grid)

"""The best row of each system at several values of one quantity: device limit or sequences a step.

Each value is a run of its own in a folder of its own, with its reference and its equal-work check.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.job import Status
from benchmarks.launch import preparing, run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.launch.recording import Inputs
from benchmarks.records.record import Record, group_by
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary
from benchmarks.rows import candidates
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.candidates import Candidates
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import ROWS, Configuration, Row, find, settings_key
from sppo.config.sizes import limit_label
from sppo.config.workload import Workload

SCHEMA = "sppo-sweep/1"

Quantity = Literal["device-memory", "sequences-per-step"]


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A checked `sweep` command.

    values: label -> the workload with this value. points: settings that are measured of a grid
    without measurements.
    """

    workload: Workload
    quantity: Quantity
    values: dict[str, Workload]
    rows: list[Row]
    options: Options
    points: int


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """The best row of each system at one value. folder: of its records, in the run's folder."""

    label: str
    device_memory_bytes: int | None
    sequences_per_step: int
    folder: str
    rows: tuple[Summary, ...]


def values(
    workload: Workload, quantity: Quantity, limits: Sequence[int | None], counts: Sequence[int]
) -> dict[str, Workload]:
    """Label -> the workload with the value, in the given order.

    limits: bytes, None for no limit. counts: sequences a step.
    """
    if quantity == "device-memory":
        return {limit_label(limit): workload.with_device_memory(limit) for limit in limits}
    if limits:
        workload = workload.with_device_memory(limits[0])
    return {str(count): replace(workload, sequences_per_step=count) for count in counts}


def rows_of(names: Sequence[str]) -> list[Row]:
    """The named rows; of a system's name its best row, the tuned one of a library.

    The best row of every system without names. Raises ValueError with the known names.
    """
    chosen: dict[Row, None] = {}
    for name in names or [row.slug for row in find([]) if row.choosing != "same layout"]:
        rows = find([name])
        best_rows = [row for row in rows if row.choosing != "same layout"]
        chosen.update(dict.fromkeys(best_rows or rows))
    return [*(row for row in ROWS if row in chosen), *(row for row in chosen if row not in ROWS)]


def measure(
    request: SweepRequest,
    label: str,
    directory: Path,
    display: Display,
    proven: Collection[str] = (),
    team: Team = ALONE,
) -> tuple[SweepPoint, list[Record]]:
    """Choose settings, launch and compare at one value, in a folder of `directory`.

    proven: settings that fit here, see `fitting_settings`. team: the other nodes. Raises ValueError
    or OSError before the first launch.
    """
    workload = request.values[label]
    folder = directory / label
    folder.mkdir(exist_ok=True)
    inputs = preparing.prepare(workload, request.options, folder, team)
    display.note(f"{workload.name}, {label}:")
    try:
        configurations = [
            configuration
            for row in request.rows
            for configuration in chosen(request, row, inputs, display, proven)
        ]
        fallback = Fallback(
            workload=workload,
            own_sequences=request.workload.sequences_per_step,
            proven=frozenset(proven),
        )
        done = run.run(
            inputs,
            configurations,
            request.options,
            display,
            narrow=fastest_of_each,
            instead=fallback,
        )
    finally:
        preparing.remove_inputs(inputs)
    point = SweepPoint(
        label=label,
        device_memory_bytes=workload.device_memory_bytes,
        sequences_per_step=workload.sequences_per_step,
        folder=label,
        rows=tuple(best(done, row) for row in request.rows),
    )
    return point, done


def fitting_settings(done: Sequence[Record], workload: Workload) -> set[str]:
    """Keys of the settings that ran in every launch with at most this device memory.

    Settings that fit a tighter device fit a looser one, with as many sequences a step.
    """
    limit = workload.device_memory_bytes
    fit: set[str] = set()
    refused: set[str] = set()
    for record in done:
        launched = record.workload
        tighter = limit is None or (
            launched.device_memory_bytes is not None and launched.device_memory_bytes <= limit
        )
        if tighter and launched.sequences_per_step == workload.sequences_per_step:
            (fit if record.status == "ok" else refused).add(settings_key(record.settings))
    return fit - refused


def chosen(
    request: SweepRequest, row: Row, inputs: Inputs, display: Display, proven: Collection[str]
) -> list[Configuration]:
    """The settings of a row at this value: SPPO's plan, or the fitting points of a grid."""
    workload = inputs.workload
    if row.choosing in ("planned", "same layout"):
        return [assign(row, workload)]
    try:
        grid = grid_assignments(row.system, workload)
    except ImportError:
        return [assign(row, workload)]  # refused, in the library's words
    own_sequences = request.workload.sequences_per_step
    ordered = candidates.of_system(row.system, workload, grid, own_sequences, proven)
    points = fitting_points(row, ordered, request.points, inputs, request.options, display)
    return points or [refused_grid(row, grid)]


def refused_grid(row: Row, grid: Sequence[Configuration]) -> Configuration:
    """The row where the library refuses every point of its grid."""
    reason = grid[0].reason if grid else "its grid is empty here"
    return Configuration(row=row, status="unavailable", reason=reason)


def fitting_points(
    row: Row,
    ordered: Candidates,
    points: int,
    inputs: Inputs,
    options: Options,
    display: Display,
) -> list[Configuration]:
    """The candidates of a tuned row that fit, each a row of its own; confirmed by launches.

    One where the candidates have known times, else so many `points`. Empty without candidates.
    """
    untimed = replace(options, launches=1, warmup_steps=0, measured_steps=0)

    def attempt(configuration: Configuration) -> Status:
        label = f"{row.label} fits {configuration.row.label.split()[-1]}"
        trial = replace(configuration, row=replace(row, label=label))
        return run.launch_row(inputs, trial, 1, untimed, display).status

    fitting = candidates.fitting(ordered, 1 if ordered.timed else points, attempt)
    if len(fitting) == 1:
        return [replace(fitting[0], row=row)]
    return [
        replace(configuration, row=replace(row, label=f"{row.label} {number}"))
        for number, configuration in enumerate(fitting, start=1)
    ]


def fastest_of_each(
    configurations: Sequence[Configuration], done: Sequence[Record]
) -> list[Configuration]:
    """After the first launch of each: the fastest of every row, or its first if none ran."""
    seconds = {
        record.row: record.step_seconds_median
        for record in done
        if record.step_seconds_median is not None
    }
    groups = group_by(
        configurations, lambda configuration: (configuration.row.system, configuration.row.choosing)
    )
    return [
        min(rows, key=lambda configuration: seconds.get(configuration.row.label, float("inf")))
        for rows in groups.values()
    ]


def best(done: Sequence[Record], row: Row) -> Summary:
    """The row at this value: ok, then launched most often, then fastest.

    The result has the row's own name, and the number of points that ran if there were several.
    """
    points = points_of(done, row)
    summary = points[0]
    ran = sum(point.status == "ok" for point in points)
    grid = summary.grid if ran <= 1 else f"fastest of {ran}; {summary.grid}"
    return replace(summary, row=row.label, grid=grid)


def points_of(done: Sequence[Record], row: Row) -> list[Summary]:
    """The points of a row that were launched, the best first, each under its own name."""
    names = row.label, f"{row.label} ", f"{row.label},"  # "Megatron tuned 2", "SPPO, point 2"
    points = [
        summary
        for summary in tables.summaries(done)
        if summary.row == names[0] or summary.row.startswith(names[1:])
    ]

    def order(summary: Summary) -> tuple[bool, int, float]:
        step = summary.step_seconds
        seconds = float("inf") if step is None else step.median
        return summary.status != "ok", -summary.launches, seconds

    return sorted(points, key=order)

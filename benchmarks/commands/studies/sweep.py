"""`sppo-bench sweep`: check what was asked, measure every value, write and show the results."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, check_machine, find_workload
from benchmarks.commands.output import show_json
from benchmarks.commands.studies.flags import Sweep
from benchmarks.records.record import Record
from benchmarks.rows.row import Row
from benchmarks.studies import publish, sweep_report
from benchmarks.studies import sweep as sweeps
from benchmarks.studies.sweep import Measured, Quantity, Value
from sppo.config.sizes import parse_bytes
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked `sweep` command."""

    workload: Workload
    quantity: Quantity
    values: list[Value]
    rows: list[Row]
    options: Any
    points: int


def check(verb: Sweep) -> Request:
    """Turn flags into what is measured. Raises UsageError before anything is written."""
    workload = find_workload(verb.workload, None)
    limits = limits_of(verb.device_memory)
    counts = counts_of(verb.sequences_per_step)
    if not limits and not counts:
        raise UsageError("nothing to sweep: give --device-memory SIZES or --sequences-per-step N,N")
    if counts and len(limits) > 1:
        raise UsageError("one quantity at a time: with --sequences-per-step give one device memory")
    if verb.points < 1:
        raise UsageError(f"--points {verb.points}: it must be at least 1")
    systems = arguments.names(verb.systems) or list(sweeps.SYSTEMS)
    unknown = [name for name in systems if name not in sweeps.SYSTEMS]
    if unknown:
        raise UsageError(f"unknown system {unknown[0]!r}; known: {', '.join(sweeps.SYSTEMS)}")
    options = arguments.options(verb)
    check_machine(workload)
    quantity: Quantity = "sequences-per-step" if counts else "device-memory"
    return Request(
        workload=workload,
        quantity=quantity,
        values=sweeps.values(workload, quantity, limits, counts),
        rows=sweeps.rows_of(systems),
        options=options,
        points=verb.points,
    )


def limits_of(text: str | None) -> list[int | None]:
    """Bytes, None for "none", each once. Raises UsageError."""
    try:
        found = [parse_bytes(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(error) from None
    return list(dict.fromkeys(found))


def counts_of(text: str | None) -> list[int]:
    """Positive numbers, each once. Raises UsageError."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    wrong = [part for part in parts if not part.isdecimal() or int(part) < 1]
    if wrong:
        raise UsageError(f"--sequences-per-step {wrong[0]!r}: write counts as 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def sweep(verb: Sweep) -> int:
    """Measure all values; exits 1 on a mismatch or a failure at any. Raises UsageError."""
    from benchmarks.launch import run
    from benchmarks.launch.progress import display

    request = check(verb)
    found: list[Measured] = []
    done: list[Record] = []
    try:
        directory = run.new_directory(arguments.parent(verb), request.workload)
        with display() as shown:
            for value in request.values:
                measured, launches = sweeps.measure(
                    value,
                    request.rows,
                    directory,
                    request.options,
                    shown,
                    own_sequences=request.workload.sequences_per_step,
                    points=request.points,
                    proven=sweeps.fitting_settings(done, value.workload),
                )
                found.append(measured)
                done += launches
                write(directory, request, found, done)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    show(directory, request, found, done, verb)
    return run.exit_code(done)


def _first(done: list[Record]) -> Record:
    return next((record for record in done if record.system != "reference"), done[0])


def write(directory: Path, request: Request, found: list[Measured], done: list[Record]) -> None:
    """All files of the values so far: an interrupt leaves what is there."""
    from benchmarks.studies.sweep_figure import line_chart

    about = request.workload, request.quantity, found, _first(done)
    publish.write(
        directory,
        "sweep",
        {
            "md": f"# {sweep_report.document(*about)}\n",
            "csv": sweep_report.csv_text(found),
            "json": json.dumps(sweep_report.told(*about), indent=2, allow_nan=False) + "\n",
        },
    )
    title, caption = sweep_report.figure_words(*about)
    line_chart(request.quantity, found, directory / "sweep.png", title=title, caption=caption)


def show(
    directory: Path, request: Request, found: list[Measured], done: list[Record], verb: Sweep
) -> None:
    """The table or JSON on standard output; published where that was asked."""
    about = request.workload, request.quantity, found, _first(done)
    if verb.json:
        show_json({"directory": str(directory), **sweep_report.told(*about)})
    else:
        print(sweep_report.document(*about))
    print(f"\nrecords, sweep.md, .csv, .json, .png: {directory}", file=sys.stderr)
    if verb.publish:
        publish.publish(directory, "sweep", "sweeps", f"{request.workload.name}-{request.quantity}")

"""`sppo-bench run`: check what was asked, launch it, publish it; or print its torchrun lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.commands.arguments import UsageError, check_machine, check_steps, find_workload
from benchmarks.commands.measuring.flags import Run
from benchmarks.commands.output import show_records
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.rows import tuning
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import Assignment, Row, find
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked `run` command."""

    workload: Workload
    assignments: Sequence[Assignment]
    options: Any
    parent: Path


def check_run(verb: Run) -> Request:
    """Turn flags into what is to be launched. Raises UsageError before anything is written."""
    from benchmarks.launch.run import Options
    from benchmarks.rows.assign import assign, grid_assignments

    workload = find_workload(verb.workload, verb.device_memory)
    if verb.text is not None:
        workload = replace(workload, text=verb.text)
    try:
        rows = find([name for item in verb.systems for name in item.split(",") if name])
        options = Options(
            launches=tuning.LAUNCHES if verb.tune else verb.launches,
            warmup_steps=verb.warmup_steps,
            measured_steps=min(verb.measured_steps, 3) if verb.tune else verb.measured_steps,
            time_limit_seconds=verb.time_limit,
        )
        check_steps(options)
        if not verb.dry_run:
            check_machine(workload)
        if verb.tune:
            assignments = [
                point
                for system in tuned_systems(rows)
                for point in grid_assignments(system, workload)
            ]
        else:
            assignments = [assign(row, workload) for row in rows]
    except (ValueError, ImportError) as error:
        raise UsageError(error) from None
    parent = verb.output or store.results_directory() / "runs"
    return Request(workload=workload, assignments=assignments, options=options, parent=parent)


def tuned_systems(rows: Sequence[Row]) -> list[str]:
    """Systems of these rows that have a grid to search. Raises UsageError where none has."""
    systems = list(dict.fromkeys(row.system for row in rows if row.choosing == "tuned"))
    if not systems:
        raise UsageError("nothing to tune: SPPO plans itself; name --systems megatron,deepspeed")
    return systems


def run(verb: Run) -> int:
    """Launch, record, compare, show."""
    from benchmarks.launch import run as supervisor
    from benchmarks.launch.progress import display

    request = check_run(verb)
    if verb.dry_run:
        return dry_run(request)
    try:
        directory = supervisor.new_directory(request.parent, request.workload)
        inputs = supervisor.prepare(request.workload, request.options, directory)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    try:
        with display() as shown:
            narrow = tuning.finalists if verb.tune else None
            instead = None if verb.tune else next_points(request.workload)
            done = supervisor.run(
                inputs, request.assignments, request.options, shown, narrow=narrow, instead=instead
            )
    except KeyboardInterrupt:
        print(f"records so far: sppo-bench table {directory}", file=sys.stderr)
        raise
    _publish(directory, done, verb)
    if verb.tune:
        _save_tuning(request.workload, done)
    return supervisor.exit_code(done)


def next_points(workload: Workload) -> Fallback:
    """What a tuned row falls back to where its point does not fit."""
    return Fallback(workload=workload, own_sequences=workload.sequences_per_step)


def _publish(directory: Path, done: Sequence[Record], verb: Run) -> None:
    """Table, CSV, figure and wandb runs in the run's folder, the table on standard output."""
    from benchmarks.reporting.bar_chart import bar_chart

    store.write_bytes(directory / "table.md", tables.markdown(done).encode())
    store.write_bytes(directory / "table.csv", tables.csv_text(done).encode())
    bar_chart(done, directory / "figure.png")
    show_records(done, directory, verb.json)
    if not verb.no_wandb:
        from benchmarks.reporting.wandb_runs import track

        trouble = track(done, directory)
        if trouble:
            print(trouble, file=sys.stderr)
    print(f"\nrecords, table.md, table.csv, figure.png: {directory}", file=sys.stderr)


def _save_tuning(workload: Workload, done: Sequence[Record]) -> None:
    systems: dict[str, list[Record]] = {}
    for record in done:
        if record.system != "reference":
            systems.setdefault(record.system, []).append(record)
    path = tuning.save(
        workload, {system: tuning.of_records(points) for system, points in systems.items()}
    )
    print(f"grid saved to {path}", file=sys.stderr)


def dry_run(request: Request) -> int:
    """The exact torchrun lines, in the order of launching; nothing is written."""
    from benchmarks.rows.assign import assign
    from benchmarks.rows.row import REFERENCE

    _print_lines(request, assign(REFERENCE, request.workload), 1)
    for number in range(1, request.options.launches + 1):
        for assignment in request.assignments:
            _print_lines(request, assignment, number)
    return 0


def _print_lines(request: Request, assignment: Assignment, number: int) -> None:
    """One torchrun line per node for one launch; the run's folder gets its TIME when it is made."""
    from benchmarks.environment import available_cores
    from benchmarks.launch import processes
    from benchmarks.rows.row import REFERENCE

    label = f"{assignment.row.label}, launch {number}"
    if assignment.status is not None:
        print(f"# {label}: {assignment.status}: {assignment.reason}")
        return
    alone = assignment.row == REFERENCE
    cluster = request.workload.cluster
    threads = available_cores() if alone else request.options.threads_per_rank
    run_directory = (request.parent / f"TIME-{request.workload.name}").absolute()
    job_path = run_directory / f"{assignment.row.slug}-{number}" / "job.json"
    print(f"# {label}: {assignment.settings_text} ({assignment.grid})")
    for node in range(1 if alone else cluster.nodes):
        nodes = processes.Nodes(
            count=1 if alone else cluster.nodes, rank=node, endpoint="HEAD_NODE:29500"
        )
        arguments = processes.command(job_path, 1 if alone else cluster.ranks, nodes)
        variables = processes.variables(threads, assignment.environment)
        print(processes.shell_line(arguments, variables))

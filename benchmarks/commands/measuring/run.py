"""`sppo-bench run`: check what was asked, launch it, publish it; or print its torchrun lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.commands.arguments import (
    UsageError,
    check_machine,
    check_steps,
    find_workload,
    parent,
)
from benchmarks.commands.flags import DeviceMemory, Launches, Named, RunFolder
from benchmarks.commands.output import show_records
from benchmarks.records import store
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.rows import tuning
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.row import Configuration, Row, find
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked `run` command."""

    workload: Workload
    assignments: Sequence[Configuration]
    options: Any
    parent: Path


@dataclass(frozen=True, kw_only=True)
class Run(RunFolder, Launches, DeviceMemory, Named):
    """Launch every row of a workload, compare them, and write records, table and figure.

    Example: sppo-bench run tiny-cpu --systems megatron,sppo --device-memory 160MiB
    """

    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space: deepspeed, megatron (both its rows), megatron-same-layout,
    megatron-tuned, sppo; all four if not given."""
    text: Annotated[str | None, arg(metavar="PATH")] = None
    """File or folder to train on (text, .npy, or raw FILE:dtype); else Python's own sources."""
    time_limit: float = 120.0
    """Seconds of one launch; after that it is stopped and recorded as timeout."""
    tune: bool = False
    """Measure each library's whole grid (at most 3 timed steps a point), its fastest points twice
    more, and save it to results/published/tuning/, where plain runs find the winner."""
    dry_run: bool = False
    """Print the exact torchrun lines; write nothing."""
    json: bool = False
    """The table as JSON on standard output."""
    no_wandb: bool = False
    """Write no wandb runs (else one per launch, offline unless WANDB_MODE says otherwise)."""

    def run(self) -> int:
        """Launch, record, compare, show; the exit code. Raises UsageError."""
        from benchmarks.launch import run as supervisor
        from benchmarks.launch.progress import display

        request = self.check()
        if self.dry_run:
            return dry_run(request)
        try:
            directory = supervisor.new_directory(request.parent, request.workload)
            inputs = supervisor.prepare(request.workload, request.options, directory)
        except (ValueError, OSError) as error:
            raise UsageError(error) from None
        try:
            with display() as shown:
                narrow = tuning.finalists if self.tune else None
                instead = None if self.tune else next_points(request.workload)
                done = supervisor.run(
                    inputs,
                    request.assignments,
                    request.options,
                    shown,
                    narrow=narrow,
                    instead=instead,
                )
        except KeyboardInterrupt:
            print(f"records so far: sppo-bench table {directory}", file=sys.stderr)
            raise
        self._publish(directory, done)
        if self.tune:
            _save_tuning(request.workload, done)
        return supervisor.exit_code(done)

    def check(self) -> Request:
        """Turn flags into what is to be launched. Raises UsageError before anything is written."""
        from benchmarks.launch.run import Options
        from benchmarks.rows.assign import assign, grid_assignments

        workload = find_workload(self.workload, self.device_memory)
        if self.text is not None:
            workload = replace(workload, text=self.text)
        try:
            rows = find([name for item in self.systems for name in item.split(",") if name])
            options = Options(
                launches=tuning.LAUNCHES if self.tune else self.launches,
                warmup_steps=self.warmup_steps,
                measured_steps=min(self.measured_steps, 3) if self.tune else self.measured_steps,
                time_limit_seconds=self.time_limit,
            )
            check_steps(options)
            if not self.dry_run:
                check_machine(workload)
            if self.tune:
                assignments = [
                    point
                    for system in tuned_systems(rows)
                    for point in grid_assignments(system, workload)
                ]
            else:
                assignments = [assign(row, workload) for row in rows]
        except (ValueError, ImportError) as error:
            raise UsageError(error) from None
        return Request(
            workload=workload, assignments=assignments, options=options, parent=parent(self)
        )

    def _publish(self, directory: Path, done: Sequence[Record]) -> None:
        """Table, CSV, figure and wandb runs in the run's folder, the table on standard output."""
        from benchmarks.reporting.bar_chart import bar_chart

        store.write_bytes(directory / "table.md", tables.markdown(done).encode())
        store.write_bytes(directory / "table.csv", tables.csv_text(done).encode())
        bar_chart(done, directory / "figure.png")
        show_records(done, directory, self.json)
        if not self.no_wandb:
            from benchmarks.reporting.wandb_runs import track

            trouble = track(done, directory)
            if trouble:
                print(trouble, file=sys.stderr)
        print(f"\nrecords, table.md, table.csv, figure.png: {directory}", file=sys.stderr)


def tuned_systems(rows: Sequence[Row]) -> list[str]:
    """Systems of these rows that have a grid to search. Raises UsageError where none has."""
    systems = list(dict.fromkeys(row.system for row in rows if row.choosing == "tuned"))
    if not systems:
        raise UsageError("nothing to tune: SPPO plans itself; name --systems megatron,deepspeed")
    return systems


def next_points(workload: Workload) -> Fallback:
    """What a tuned row falls back to where its point does not fit."""
    return Fallback(workload=workload, own_sequences=workload.sequences_per_step)


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


def _print_lines(request: Request, assignment: Configuration, number: int) -> None:
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

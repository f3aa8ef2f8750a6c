"""`sppo-bench run`: check the flags, launch the rows, write the results; or a dry run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from benchmarks.commands import arguments, several_nodes
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import (
    Data,
    KernelFlags,
    Launched,
    Launches,
    SeveralNodes,
    Tracked,
)
from benchmarks.commands.machine import workload_words
from benchmarks.commands.output import show_records
from benchmarks.commands.run_folder import is_finished, run_folder, unfinished
from benchmarks.commands.tracked import tracked
from benchmarks.environment import available_cores
from benchmarks.job import Kernels
from benchmarks.launch import kernel_choice, preparing, time_limits
from benchmarks.launch import run as supervisor
from benchmarks.launch.gate import exit_code
from benchmarks.launch.options import Options
from benchmarks.launch.progress import display
from benchmarks.launch.ranks.processes import command, shell_line, variables
from benchmarks.launch.ranks.team import Nodes, Team
from benchmarks.records import store
from benchmarks.records.record import Record, grouped
from benchmarks.reporting import tables
from benchmarks.reporting.bar_chart import bar_chart
from benchmarks.rows import tuning
from benchmarks.rows.assign import assign, grid_assignments
from benchmarks.rows.fallback import Fallback
from benchmarks.rows.plans import best_plans, can_be_measured
from benchmarks.rows.references import references
from benchmarks.rows.row import Configuration, Row, find
from benchmarks.tracking import studies
from benchmarks.tracking.launches import track
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked `run` command. tunes: whether it measures whole grids."""

    workload: Workload
    rows: Sequence[Row]
    options: Options
    parent: Path
    tunes: bool
    kernels: Kernels

    def configurations(self) -> list[Configuration]:
        """The rows with their settings, or what is tuned. Raises UsageError."""
        with usage_errors(ImportError):
            if self.tunes:
                chosen = points_of(self.rows, self.workload)
            else:
                chosen = [assign(row, self.workload) for row in self.rows]
            kernel_choice.check_rows(chosen, forced=self.kernels.forced)
            return chosen


@dataclass(frozen=True, kw_only=True)
class Run(Tracked, SeveralNodes, Data, KernelFlags, Launches, Launched):
    """Launch every row of a workload, compare the rows, and write records, table and figure.

    Example: sppo-bench run tiny-cpu --systems megatron,sppo --device-memory 160MiB

    Example: sppo-bench run --model llama-8b --seq 128K --gpus 8 --hardware a100-80g
    """

    systems: Annotated[tuple[str, ...], arg(metavar="NAMES")] = ()
    """Rows, by comma or space: deepspeed, deepspeed-ours, megatron (both its rows),
    megatron-same-layout, megatron-tuned, megatron-ours, megatron-te, native, sppo; all but
    deepspeed-ours, megatron-ours and megatron-te if not given."""
    tune: bool = False
    """Measure each library's whole grid and SPPO's best plans (at most 3 timed steps a point), and
    the fastest points twice more. Later runs on this machine find the winners in results/tuning/.
    The grids go to results/published/tuning/ too, to commit."""
    dry_run: bool = False
    """Print the exact torchrun lines and time limits, and write nothing."""
    json: bool = False
    """The table as JSON on standard output."""
    no_wandb: bool = False
    """Write no wandb runs (docs/wandb.md). By default one per launch, with --tune one in all, live;
    offline unless WANDB_MODE is set."""

    def run(self) -> int:
        """Launch, record, compare, show; the exit code. Raises UsageError."""
        request = self.check()
        if self.dry_run:
            return dry_run(request)
        measure = partial(self._measure, request)
        return several_nodes.on_nodes(self, request.workload, measure, asked=workload_words(self))

    def _measure(self, request: RunRequest, team: Team) -> int:
        """Launch, record, compare and show on this node; the exit code."""
        workload, configurations = request.workload, request.configurations()
        with (
            run_folder(self, workload, configurations) as directory,
            tracked(self, directory, is_study=self.tune) as live,
        ):
            finished = is_finished(self)
            with usage_errors(OSError):
                inputs = preparing.prepare(workload, request.options, directory, team)
                kernels = kernel_choice.choose(request.kernels, workload, directory)
            inputs = replace(inputs, kernels=kernels)
            instead = Fallback(workload=workload, own_sequences=workload.sequences_per_step)
            with display() as shown:
                done = supervisor.run(
                    inputs,
                    configurations,
                    unfinished(self, request.options),
                    shown,
                    narrow=tuning.finalists if self.tune else None,
                    instead=None if self.tune else instead,
                    on_record=studies.LaunchFeed(run=live, series=studies.by_system),
                )
            if self.tune:
                studies.end_tune(live, done, exit_code(done))
                if not finished:  # a newer grid may be there
                    _save_tuning(workload, done)
            self._publish(directory, done, with_wandb=not (self.tune or self.no_wandb))
        return exit_code(done)

    def check(self) -> RunRequest:
        """The launches from the flags. Raises UsageError before anything is written."""
        workload = arguments.with_data(arguments.find_launched(self), self)
        workload = several_nodes.divided(workload, several_nodes.count_of(self))
        with usage_errors(ImportError):
            rows = find([name for item in self.systems for name in item.split(",") if name])
            options = arguments.options(self, workload.cluster)
            kernels = kernel_choice.checked(
                self.attention_kernel, workload, forced=self.force_kernel, fused=self.fuse
            )
            if self.tune:
                measured_steps = min(options.measured_steps, 3)
                options = replace(
                    options,
                    launches=tuning.LAUNCHES,
                    measured_steps=measured_steps,
                    budget_seconds=0.0,
                )
        return RunRequest(
            workload=workload,
            rows=rows,
            options=options,
            parent=arguments.parent(self),
            tunes=self.tune,
            kernels=kernels,
        )

    def _publish(self, directory: Path, done: Sequence[Record], *, with_wandb: bool) -> None:
        """Write table, CSV, figure and wandb runs; print the table."""
        store.write_bytes(directory / "table.md", tables.markdown(done).encode())
        store.write_bytes(directory / "table.csv", tables.csv_text(done).encode())
        bar_chart(done, directory / "figure.png")
        show_records(done, directory, self.json)
        if with_wandb:
            error = track(done, directory)
            if error:
                print(error, file=sys.stderr)
        print(f"\nrecords, table.md, table.csv, figure.png: {directory}", file=sys.stderr)


def points_of(rows: Sequence[Row], workload: Workload) -> list[Configuration]:
    """What `--tune` measures: the grids of the tuned rows, and SPPO's best plans.

    Raises UsageError where the rows have neither.
    """
    points: dict[str, list[Configuration]] = {}
    for row in rows:
        if row.choosing == "tuned":
            points[row.system] = grid_assignments(row.system, workload)
        elif row.choosing == "planned" and can_be_measured(row.system):
            points[row.system] = best_plans(row.system, workload)
    if not points:
        raise UsageError(
            "nothing to tune: these rows follow a plan; name --systems megatron-tuned,deepspeed"
        )
    return [point for system in points.values() for point in system]


def _save_tuning(workload: Workload, done: Sequence[Record]) -> None:
    systems = grouped(done, "system")
    grids = {system: tuning.of_records(points) for system, points in systems.items()}
    path = tuning.save(workload, grids)
    print(f"grid saved to {path}", file=sys.stderr)


def dry_run(request: RunRequest) -> int:
    """Print the exact torchrun lines, in the order of the launches."""
    configurations = request.configurations()
    for reference in references(request.workload):
        print_lines(request, reference, 1)
    for number in range(1, request.options.launches + 1):
        for configuration in configurations:
            print_lines(request, configuration, number)
    if request.options.budget_seconds and request.options.launches > 1:
        seconds = request.options.budget_seconds
        print(f"# further launches of rows that are not settled: within --budget {seconds:g} s")
    return 0


def print_lines(request: RunRequest, configuration: Configuration, number: int) -> None:
    """Print one torchrun line per node for one launch. The run's folder has TIME for its time."""
    label = f"{configuration.row.label}, launch {number}"
    if configuration.status is not None:
        print(f"# {label}: {configuration.status}: {configuration.reason}")
        return
    cluster = request.workload.cluster
    threads, ranks, count = request.options.threads_per_rank, cluster.ranks, cluster.nodes
    if configuration.row.is_reference:
        threads, ranks, count = available_cores(), 1, 1
    run_directory = (request.parent / f"TIME-{request.workload.name}").absolute()
    job_path = run_directory / f"{configuration.row.slug}-{number}" / "job.json"
    steps = supervisor.steps_of(configuration, request.options)
    limit_seconds = request.options.time_limit_seconds or time_limits.limit_seconds(
        request.workload, configuration, steps
    )
    print(f"# {label}: {configuration.settings_text} ({configuration.grid})")
    print(f"# time limit: {limit_seconds:,.0f} s for {steps} steps")
    for node in range(count):
        nodes = Nodes(count=count, rank=node, endpoint="HEAD_NODE:29500")
        environment = variables(threads, configuration.environment)
        print(shell_line(command(job_path, ranks, nodes, cluster.device), environment))

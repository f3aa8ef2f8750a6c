"""What each verb of the command line does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import records, tables, tuning, workloads
from benchmarks.cli import Env, Limit, List, Plan, Run, Table
from benchmarks.records import Record, RecordError
from benchmarks.rows import ROWS, Assignment, Row, find
from sppo.workload import Workload, format_bytes, parse_bytes


class UsageError(Exception):
    """Wrong input; the message is one line that names the cure."""


def dispatch(verb: List | Plan | Run | Table | Limit | Env) -> int:
    """Do it; returns the exit code. Raises UsageError."""
    match verb:
        case List():
            return list_workloads(verb)
        case Plan():
            return plan(verb)
        case Run():
            return run(verb)
        case Table():
            return table(verb)
        case Limit():
            return limit(verb)
        case Env():
            return environment(verb)


def show_json(value: object) -> None:
    """Indented JSON on standard output; what JSON cannot say is an error."""
    print(json.dumps(value, indent=2, allow_nan=False))


def list_workloads(verb: List) -> int:
    """Workloads and rows."""
    import msgspec
    from tabulate import tabulate

    if verb.json:
        names = {name: msgspec.to_builtins(w) for name, w in workloads.WORKLOADS.items()}
        rows = [{"label": row.label, "slug": row.slug, "system": row.system} for row in ROWS]
        show_json({"workloads": names, "rows": rows})
        return 0
    lines = [
        (
            workload.name,
            workload.model.name,
            workloads.length_name(workload.sequence_tokens),
            workload.cluster.ranks,
            workload.cluster.hardware,
            _memory(workload),
        )
        for workload in workloads.WORKLOADS.values()
    ]
    headers = ("workload", "model", "tokens", "ranks", "hardware", "device memory")
    print(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
    print("\nrows: " + ", ".join(f"{row.label} ({row.slug})" for row in ROWS))
    return 0


def _memory(workload: Workload) -> str:
    limit_bytes = workload.device_memory_bytes
    return "no limit" if limit_bytes is None else format_bytes(limit_bytes)


def find_workload(name: str, device_memory: str | None) -> Workload:
    """The named workload with the asked limit. Raises UsageError."""
    try:
        workload = workloads.find(name)
        if device_memory is None:
            return workload
        return workload.with_device_memory(parse_bytes(device_memory))
    except ValueError as error:
        raise UsageError(error) from None


def plan(verb: Plan) -> int:
    """The plan's card or JSON."""
    from benchmarks.rows import plan_data, sppo_plan
    from sppo.errors import Infeasible, NotBuilt

    workload = find_workload(verb.workload, verb.device_memory)
    try:
        found = sppo_plan(workload)
    except Infeasible as error:
        if verb.json:
            show_json({"workload": workload.name, "status": "infeasible", "reason": str(error)})
        else:
            print(f"infeasible: {error}")
        return 1
    except (ImportError, NotBuilt, ValueError) as error:
        raise UsageError(error) from None
    if verb.json:
        show_json(plan_data(found))
    else:
        print(found.card())
    return 0


def limit(verb: Limit) -> int:
    """Search the workload's device memory by its rule, save and show it."""
    from benchmarks import limit as limits
    from benchmarks.progress import display

    workload = find_workload(verb.workload, None)
    check_machine(workload)
    parent = verb.output or records.results_directory() / "runs"
    try:
        with display() as shown:
            found = limits.search(workload, parent, shown)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    path = limits.save(found)
    if verb.json:
        print(records.to_json(found).decode())
    else:
        print(f"{workload.name}: {format_bytes(found.device_memory_bytes)}, {found.rule}")
    print(f"saved to {path}", file=sys.stderr)
    return 0


def environment(verb: Env) -> int:
    """This machine."""
    from benchmarks.environment import describe_environment

    described = describe_environment()
    if verb.json:
        show_json(described)
        return 0
    for name, value in described.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        print(f"{name + ':':<14}{value}")
    return 0


def table(verb: Table) -> int:
    """The table of a run, from its records; the exit code is the run's."""
    from benchmarks.supervisor import exit_code

    try:
        done = records.read_all(verb.directory)
    except RecordError as error:
        raise UsageError(error) from None
    _show(done, verb.directory, verb.json)
    return exit_code(done)


def _show(done: Sequence[Record], directory: Path, as_json: bool) -> None:
    if not as_json:
        print(tables.text(done))
        return
    show_json(
        {
            "directory": str(directory),
            "header": tables.header(done),
            "rows": [tables.flat(summary) for summary in tables.summaries(done)],
            "notes": tables.notes(done),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked `run` command."""

    workload: Workload
    assignments: Sequence[Assignment]
    options: Any
    parent: Path


def check_run(verb: Run) -> Request:
    """Turn flags into what is to be launched. Raises UsageError before anything is written."""
    from benchmarks.rows import assign, grid_assignments
    from benchmarks.supervisor import Options

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
    parent = verb.output or records.results_directory() / "runs"
    return Request(workload=workload, assignments=assignments, options=options, parent=parent)


def check_steps(options: Any) -> None:
    """Raise UsageError if the launches would be too short for the equal-work gate."""
    from benchmarks.supervisor import REFERENCE_STEPS

    if options.steps < REFERENCE_STEPS:
        raise UsageError(
            f"{options.steps} optimizer steps a launch are too few to compare losses over "
            f"{REFERENCE_STEPS}: raise --measured-steps or --warmup-steps"
        )


def tuned_systems(rows: Sequence[Row]) -> list[str]:
    """Systems of these rows that have a grid to search. Raises UsageError where none has."""
    systems = list(dict.fromkeys(row.system for row in rows if row.choosing == "tuned"))
    if not systems:
        raise UsageError("nothing to tune: SPPO plans itself; name --systems megatron,deepspeed")
    return systems


def check_machine(workload: Workload) -> None:
    """Raise UsageError, naming a command that fits, if this machine cannot run the workload."""
    from benchmarks.environment import available_cores

    cluster = workload.cluster
    name = workload.name
    if cluster.device == "cpu":
        cores = available_cores()
        if cluster.ranks > cores:
            print(f"note: {cluster.ranks} ranks share {cores} core(s): slow", file=sys.stderr)
        return
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found < cluster.ranks_per_node or cluster.nodes > 1:
        raise UsageError(
            f"{name} needs {cluster.nodes} x {cluster.ranks_per_node} CUDA devices, this machine "
            f"has {found}; `sppo-bench run {name} --dry-run` prints its torchrun lines, "
            f"`sppo-bench run {workloads.DEFAULT}` runs here"
        )


def run(verb: Run) -> int:
    """Launch, record, compare, show."""
    from benchmarks import supervisor
    from benchmarks.progress import display

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
            done = supervisor.run(
                inputs, request.assignments, request.options, shown, narrow=narrow
            )
    except KeyboardInterrupt:
        print(f"records so far: sppo-bench table {directory}", file=sys.stderr)
        raise
    _publish(directory, done, verb)
    if verb.tune:
        _save_tuning(request.workload, done)
    return supervisor.exit_code(done)


def _publish(directory: Path, done: Sequence[Record], verb: Run) -> None:
    """Table, CSV, figure and wandb runs in the run's folder, the table on standard output."""
    from benchmarks.figures import bar_chart

    records.write_bytes(directory / "table.md", tables.markdown(done).encode())
    records.write_bytes(directory / "table.csv", tables.csv_text(done).encode())
    bar_chart(done, directory / "figure.png")
    _show(done, directory, verb.json)
    if not verb.no_wandb:
        from benchmarks.tracking import track

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
    from benchmarks.rows import REFERENCE, assign

    _print_lines(request, assign(REFERENCE, request.workload), 1)
    for number in range(1, request.options.launches + 1):
        for assignment in request.assignments:
            _print_lines(request, assignment, number)
    return 0


def _print_lines(request: Request, assignment: Assignment, number: int) -> None:
    """One torchrun line per node for one launch; the run's folder gets its TIME when it is made."""
    from benchmarks import launcher
    from benchmarks.environment import available_cores
    from benchmarks.rows import REFERENCE

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
        nodes = launcher.Nodes(
            count=1 if alone else cluster.nodes, rank=node, endpoint="HEAD_NODE:29500"
        )
        arguments = launcher.command(job_path, 1 if alone else cluster.ranks, nodes)
        variables = launcher.variables(threads, assignment.environment)
        print(launcher.shell_line(arguments, variables))

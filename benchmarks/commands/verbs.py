"""What each verb of the command line does; the larger ones have a file of their own."""

from __future__ import annotations

import sys

from benchmarks import workloads
from benchmarks.commands.arguments import (
    UsageError,
    check_machine,
    find_selected,
    find_workload,
    planned,
    solver_options,
    tell_infeasible,
)
from benchmarks.commands.flags import (
    Env,
    Limit,
    List,
    Plan,
    Profile,
    Run,
    Simulate,
    Table,
    Timeline,
)
from benchmarks.commands.output import show_json, show_records
from benchmarks.commands.planning.emulate_flags import Emulate
from benchmarks.commands.study_flags import Ablation, Longest, Paper, Sweep
from benchmarks.records import record, store
from benchmarks.records.plan_record import plan_data
from benchmarks.records.store import RecordError
from benchmarks.rows.row import ROWS
from sppo.config import sizes
from sppo.config.errors import Infeasible
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

Study = Longest | Sweep | Ablation | Paper
Verb = List | Plan | Simulate | Timeline | Emulate | Run | Table | Limit | Study | Profile | Env


def dispatch(verb: Verb) -> int:
    """Do it; returns the exit code. Raises UsageError."""
    match verb:
        case List():
            return list_workloads(verb)
        case Plan():
            return plan(verb)
        case Simulate():
            from benchmarks.commands.planning.simulate import simulate

            return simulate(verb)
        case Timeline():
            from benchmarks.commands.reports.timeline import timeline

            return timeline(verb)
        case Emulate():
            from benchmarks.commands.planning.emulate import emulate

            return emulate(verb)
        case Run():
            from benchmarks.commands.measuring.run import run

            return run(verb)
        case Table():
            return table(verb)
        case Limit():
            return limit(verb)
        case Longest():
            from benchmarks.commands.measuring.longest import longest

            return longest(verb)
        case Sweep():
            from benchmarks.commands.studies.sweep import sweep

            return sweep(verb)
        case Ablation():
            from benchmarks.commands.studies.ablation import ablation

            return ablation(verb)
        case Paper():
            from benchmarks.commands.studies.paper import paper

            return paper(verb)
        case Profile():
            from benchmarks.commands.measuring.profile import profile

            return profile(verb)
        case Env():
            return environment(verb)


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
            sizes.length_name(workload.sequence_tokens),
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


def plan(verb: Plan) -> int:
    """The plan's card or JSON."""
    from sppo.config.hardware import load_profile
    from sppo.planner.report.card import card

    try:
        found = planned(verb)
    except Infeasible as error:
        return tell_infeasible(verb, error)
    workload = find_selected(verb)
    profile = load_profile(workload.cluster.hardware)
    if verb.json:
        solver = solver_options(verb).solver
        show_json(plan_data(found, solver=solver, profile_kind=profile.kind))
    else:
        print(card(found, profile, workload))
    return 0


def limit(verb: Limit) -> int:
    """Search the workload's device memory by its rule, save and show it."""
    from benchmarks.launch.progress import display
    from benchmarks.studies import limit as limits

    workload = find_workload(verb.workload, None)
    check_machine(workload)
    parent = verb.output or store.results_directory() / "runs"
    try:
        with display() as shown:
            found = limits.search(workload, parent, shown)
    except (ValueError, OSError) as error:
        raise UsageError(error) from None
    path = limits.save(found)
    if verb.json:
        print(store.to_json(found).decode())
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
    from benchmarks.launch.run import exit_code

    try:
        done = record.read_all(verb.directory)
    except RecordError as error:
        raise UsageError(error) from None
    show_records(done, verb.directory, verb.json)
    return exit_code(done)

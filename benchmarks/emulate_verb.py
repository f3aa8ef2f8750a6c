"""`sppo-bench emulate`: check what was asked, emulate every role, and show the verdict."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Misfit, Role, Unavailable, roles_of
from benchmarks import emulation_tables, records
from benchmarks.emulate_flags import Emulate
from benchmarks.emulate_settings import settings_of
from benchmarks.emulated_time import simulated_time
from benchmarks.emulation import Emulation, EmulationJob, RoleReport, verdict
from benchmarks.flags import Selection
from benchmarks.selection import MODEL_FLAGS, UsageError, find_selected
from sppo.errors import Infeasible, NotBuilt
from sppo.profile import load_profile
from sppo.workload import Workload

HARDWARE = "a100-80g"
"""The paper's card, where a workload by flags names no other."""


def emulate(verb: Emulate) -> int:
    """The exit code: 1 if a role failed. Raises UsageError."""
    from benchmarks import emulation_run

    if verb.time_limit <= 0:
        raise UsageError(f"--time-limit {verb.time_limit:g}: give the seconds of one rank")
    workload = find_emulated(verb)
    settings = settings_of(verb, workload)
    adapter = registry.load(verb.system)
    try:
        adapter.check(workload, settings)
        known = roles_of(adapter, workload, settings)
    except Misfit as error:
        raise UsageError(error) from None
    except (Unavailable, Infeasible) as error:
        return show(_refused(verb, workload, adapter, settings, error), verb)
    except (NotBuilt, ValueError) as error:
        raise UsageError(error) from None
    roles = asked_roles(verb.ranks, known, workload)
    parent = verb.output or records.results_directory() / "runs"
    try:
        directory = emulation_run.new_directory(parent, verb.system, workload)
    except OSError as error:
        raise UsageError(error) from None
    job = EmulationJob(
        workload=workload,
        system=verb.system,
        settings=msgspec.to_builtins(settings),
        output_directory=str(directory),
    )
    reports = emulation_run.run(job, roles, adapter, verb.time_limit)
    found = conclude(verb, workload, adapter, settings, reports)
    emulation_run.save(found, directory)
    code = show(found, verb)
    print(f"saved to {directory}", file=sys.stderr)
    return code


def find_emulated(verb: Emulate) -> Workload:
    """The workload by its name or by the model flags. Raises UsageError."""
    by_flags = any(getattr(verb, name) is not None for name in MODEL_FLAGS)
    if not by_flags and verb.workload is None:
        raise UsageError(
            "emulate needs a WORKLOAD of `sppo-bench list`, or --model NAME --seq TOKENS "
            "--gpus COUNT"
        )
    return find_selected(
        Selection(
            workload=verb.workload,
            model=verb.model,
            seq=verb.seq,
            gpus=verb.gpus,
            hardware=verb.hardware or (HARDWARE if by_flags else None),
            device_memory=verb.device_memory,
            sequences_per_step=verb.sequences_per_step,
        )
    )


def asked_roles(which: str, roles: tuple[Role, ...], workload: Workload) -> tuple[Role, ...]:
    """The ranks to emulate, each under the name of its role. Raises UsageError."""
    if which == "roles":
        return roles
    ranks = range(workload.cluster.ranks)
    if which == "all":
        return tuple(_alone(rank, roles) for rank in ranks)
    names = which.split(",")
    if not all(name.strip().isdecimal() and int(name) in ranks for name in names):
        raise UsageError(
            f"--ranks {which}: roles, all, or ranks of 0 to {ranks[-1]} by comma, as 0,8"
        )
    return tuple(_alone(rank, roles) for rank in sorted({int(name) for name in names}))


def _alone(rank: int, roles: tuple[Role, ...]) -> Role:
    """One rank by itself. Roles are blocks of ranks, each named by its first."""
    role = max((role for role in roles if role.rank <= rank), key=lambda role: role.rank)
    return Role(name=f"{role.name}, rank {rank}", rank=rank, ranks=1)


def conclude(
    verb: Emulate,
    workload: Workload,
    adapter: Adapter,
    settings: Any,
    reports: list[RoleReport],
) -> Emulation:
    """Verdict, roles and the time that their counts would take in one record."""
    from benchmarks.environment import describe_environment

    plain = msgspec.to_builtins(settings)
    profile = load_profile(workload.cluster.hardware)
    return Emulation(
        workload=workload,
        system=verb.system,
        settings=plain,
        settings_text=adapter.describe(settings),
        capacity_bytes=workload.device_memory_bytes,
        host_capacity_bytes=workload.host_memory_bytes,
        roles=reports,
        simulated_time=simulated_time(verb.system, plain, workload, profile, reports),
        environment=describe_environment(),
        **verdict(reports, workload),
    )


def _refused(
    verb: Emulate, workload: Workload, adapter: Adapter, settings: Any, error: Exception
) -> Emulation:
    """A layout that the library refuses, or a workload for which the planner finds no plan."""
    found = conclude(verb, workload, adapter, settings, [])
    planned = isinstance(error, Infeasible)
    return msgspec.structs.replace(
        found,
        status="infeasible" if planned else "unavailable",
        fits=False if planned else None,
        reason=str(error),
    )


def show(found: Emulation, verb: Emulate) -> int:
    """Print the verdict; the exit code."""
    if verb.json:
        print(records.to_json(found).decode(), end="")
    else:
        print(emulation_tables.text(found))
    done = ("ok", "oom", "host_oom", "unavailable", "infeasible")
    statuses = [found.status, *(report.status for report in found.roles)]
    return 0 if all(status in done for status in statuses) else 1

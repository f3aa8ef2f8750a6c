"""`sppo-bench emulate`: check what was asked, emulate every role, and show the verdict."""

from __future__ import annotations

import sys

from baselines.protocol import Misfit, Role
from benchmarks.commands.arguments import MODEL_FLAGS, UsageError, find_selected
from benchmarks.commands.flags import Selection
from benchmarks.commands.planning.emulate_settings import settings_of
from benchmarks.commands.planning.flags import Emulate
from benchmarks.emulation import tables
from benchmarks.emulation.cache import default_cache
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Emulation
from benchmarks.records import store
from sppo.config.errors import NotBuilt
from sppo.config.workload import Workload

HARDWARE = "a100-80g"
"""The paper's card, where a workload by flags names no other."""


def emulate(verb: Emulate) -> int:
    """The exit code: 1 if a role failed. Raises UsageError."""
    if verb.time_limit <= 0:
        raise UsageError(f"--time-limit {verb.time_limit:g}: give the seconds of one rank")
    if verb.at_most is not None and not verb.longest:
        raise UsageError("--at-most bounds --longest, which is not asked for")
    workload = find_emulated(verb)
    if verb.longest or verb.tuned:
        from benchmarks.commands.planning.emulate_search import search

        return search(verb, workload, emulator(verb))
    settings = settings_of(verb, workload)
    try:
        found = emulator(verb).emulate(
            workload,
            verb.system,
            settings,
            lambda roles: asked_roles(verb.ranks, roles, workload),
        )
    except (Misfit, NotBuilt, ValueError, OSError) as error:
        raise UsageError(error) from None
    code = show(found, verb)
    if found.directory:
        print(f"saved to {found.directory}", file=sys.stderr)
    return code


def emulator(verb: Emulate) -> Emulator:
    """Where the flags want files, and from where they allow what is known already."""
    return Emulator(
        parent=verb.output or store.results_directory() / "runs",
        time_limit_seconds=verb.time_limit,
        cache=None if verb.again else default_cache(),
    )


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
    names = which.split(",")
    if which != "all" and not all(
        name.strip().isdecimal() and int(name) in ranks for name in names
    ):
        raise UsageError(
            f"--ranks {which}: roles, all, or ranks of 0 to {ranks[-1]} by comma, as 0,8"
        )
    asked = ranks if which == "all" else sorted({int(name) for name in names})
    return tuple(_alone(rank, roles) for rank in asked)


def _alone(rank: int, roles: tuple[Role, ...]) -> Role:
    """One rank by itself. Roles are blocks of ranks, each named by its first."""
    role = max((role for role in roles if role.rank <= rank), key=lambda role: role.rank)
    return Role(name=f"{role.name}, rank {rank}", rank=rank, ranks=1)


def show(found: Emulation, verb: Emulate) -> int:
    """Print the verdict; the exit code."""
    if verb.json:
        print(store.to_json(found).decode(), end="")
    else:
        print(tables.text(found))
    done = ("ok", "oom", "host_oom", "unavailable", "infeasible")
    statuses = [found.status, *(report.status for report in found.roles)]
    return 0 if all(status in done for status in statuses) else 1

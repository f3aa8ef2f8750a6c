"""Workload, system and settings -> Emulation: refused, or every role run and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Misfit, Planner, Role, Unavailable, roles_of
from benchmarks.emulation import processes
from benchmarks.emulation.cache import Cache
from benchmarks.emulation.result import Emulation, Planned, RoleReport, verdict
from benchmarks.emulation.time.step_time import simulated_time
from benchmarks.environment import describe_environment
from benchmarks.job import Status
from benchmarks.launch.progress import Lines
from sppo.config.errors import Infeasible
from sppo.config.hardware import load_hardware
from sppo.config.workload import Workload

Choose = Callable[[tuple[Role, ...]], Sequence[Role]]
"""Of all roles, those to emulate."""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """Where emulations are written, how long a rank may take, and which need not run again.

    `hasty`: stop at the first role that does not fit, which decides the verdict.
    """

    parent: Path
    time_limit_seconds: float
    cache: Cache | None = None
    hasty: bool = False
    told: Lines = field(default_factory=Lines)

    def emulate(
        self,
        workload: Workload,
        system: str,
        settings: Any,
        choose: Choose | None = None,
        *,
        first: str | None = None,
    ) -> Emulation:
        """All roles, or those chosen; the role named `first` before the others.

        Raises Misfit, NotBuilt or ValueError for what cannot be asked, OSError from the folder.
        """
        adapter = registry.load(system)
        refused = self.refusal(workload, system, settings)
        if refused is not None:
            return refused
        roles: Sequence[Role] = roles_of(adapter, workload, settings)
        if choose is not None:
            roles = choose(tuple(roles))
        directory = processes.new_directory(self.parent, system, workload)
        job = processes.make_job(workload, adapter, settings, directory)
        reports = processes.run(
            job,
            sorted(roles, key=lambda role: role.name != first),
            adapter,
            self.time_limit_seconds,
            cache=self.cache,
            hasty=self.hasty,
            told=self.told,
        )
        found = conclude(workload, adapter, settings, sorted(reports, key=lambda one: one.rank))
        processes.save(found, directory)
        return msgspec.structs.replace(found, directory=str(directory))

    def refusal(self, workload: Workload, system: str, settings: Any) -> Emulation | None:
        """What is known without running: a layout that the library refuses, or that has no plan."""
        adapter = registry.load(system)
        try:
            adapter.check(workload, settings)
            roles_of(adapter, workload, settings)
        except Misfit:
            raise
        except (Unavailable, Infeasible) as error:
            status: Status = "infeasible" if isinstance(error, Infeasible) else "unavailable"
            return self.refused(workload, system, settings, status, str(error))
        return None

    def refused(
        self, workload: Workload, system: str, settings: Any, status: Status, reason: str
    ) -> Emulation:
        """An emulation in which nothing ran."""
        return msgspec.structs.replace(
            conclude(workload, registry.load(system), settings, []),
            status=status,
            fits=False if status == "infeasible" else None,
            reason=reason,
        )


def conclude(
    workload: Workload, adapter: Adapter, settings: Any, reports: list[RoleReport]
) -> Emulation:
    """Verdict, roles and the time that their counts would take, in one record."""
    plain = msgspec.to_builtins(settings)
    profile = load_hardware(workload.cluster.hardware)
    return Emulation(
        workload=workload,
        system=adapter.name,
        settings=plain,
        settings_text=_settings_text(workload, adapter, settings, reports),
        capacity_bytes=workload.device_memory_bytes,
        host_capacity_bytes=workload.host_memory_bytes,
        roles=reports,
        simulated_time=simulated_time(adapter.name, plain, workload, profile, reports),
        planned=_planned(workload, adapter, settings, reports),
        environment=describe_environment(),
        **verdict(reports, workload),
    )


def _settings_text(
    workload: Workload, adapter: Adapter, settings: Any, reports: list[RoleReport]
) -> str:
    """In the field's words; of a system that plans the plan to which they lead, if there is one."""
    if not isinstance(adapter, Planner) or not reports:
        return adapter.describe(settings)
    from benchmarks.records.plan_record import plan_data, plan_words

    return plan_words(plan_data(adapter.plan(workload, settings)))


def _planned(
    workload: Workload, adapter: Adapter, settings: Any, reports: list[RoleReport]
) -> list[Planned]:
    counted = [report for report in reports if report.counts is not None]
    if not isinstance(adapter, Planner) or not counted:
        return []
    from benchmarks.emulation.predicted_vs_counted import planned_beside_counted

    return planned_beside_counted(adapter.plan(workload, settings), counted)

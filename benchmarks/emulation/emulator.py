"""Workload, system and settings -> Emulation: refused, or every role run and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import (
    Adapter,
    Misfit,
    Planner,
    Role,
    Unavailable,
    check_emulated,
    roles_of,
)
from benchmarks.emulation import processes, resuming
from benchmarks.emulation.cache import EmulationCache, code_digest
from benchmarks.emulation.predicted_vs_counted import planned_beside_counted
from benchmarks.emulation.result import Emulation, EmulationJob, RoleReport, exceeds, verdict
from benchmarks.emulation.time.step_time import simulated_time
from benchmarks.environment import available_cores, describe_environment
from benchmarks.launch.progress import Lines
from benchmarks.launch.run import new_directory
from benchmarks.records import store
from benchmarks.records.machine_errors import records_so_far
from benchmarks.records.plan_record import plan_data, plan_words
from sppo.config.errors import Infeasible
from sppo.config.hardware import load_hardware
from sppo.config.workload import Workload

Choose = Callable[[tuple[Role, ...]], Sequence[Role]]
"""All roles -> the roles to emulate."""

RunRank = Callable[[Role, EmulationJob, float, Event], RoleReport]
"""Runs one rank within seconds, or until the event."""


@dataclass(frozen=True, kw_only=True)
class Emulator:
    """Where and how emulations run.

    parent: the folder of their folders. time_limit_seconds: of one rank. cache: roles that need not
    run. stop_at_first_oom: the first role that exceeds a memory capacity is the last one reported,
    and decides the verdict; the others are stopped. earlier: ended emulations of a resumed search
    by `resuming.key`, used where all roles are asked. run_rank: how a rank runs; if not given, in a
    process of its own.
    """

    parent: Path
    time_limit_seconds: float
    cache: EmulationCache | None = None
    stop_at_first_oom: bool = False
    progress: Lines = field(default_factory=Lines)
    earlier: Mapping[str, Emulation] = field(default_factory=dict)
    run_rank: RunRank = processes.emulate_rank

    def for_search(self, directory: Path) -> Emulator:
        """The same for a search in a folder, which may be a resumed one.

        Ended emulations there do not run a second time. Without a cache the folder keeps the roles.
        """
        return replace(
            self,
            parent=directory,
            cache=self.cache or EmulationCache(directory=directory / "roles"),
            earlier=resuming.earlier(directory),
        )

    def emulate(
        self,
        workload: Workload,
        system: str,
        settings: Any,
        choose: Choose | None = None,
        *,
        first: str | None = None,
    ) -> Emulation:
        """Emulate all roles, or the chosen ones; the role named `first` runs first.

        Raises Misfit, NotSupported or ValueError for wrong input, OSError from the folder.
        """
        adapter = registry.load(system)
        refused = self.refusal(workload, system, settings)
        if refused is not None:
            return refused
        ended = self.earlier.get(resuming.key(workload, system, settings))
        if ended is not None and choose is None:
            self.progress.note(f"{system}, {ended.settings_text}: {ended.status}, emulated before")
            return ended
        roles = roles_of(adapter, workload, settings)
        directory = new_directory(self.parent, f"emulate-{system}-{workload.name}")
        with records_so_far(directory):
            job = processes.make_job(workload, adapter, settings, directory)
            chosen = choose(roles) if choose else roles
            ordered = sorted(chosen, key=lambda role: role.name != first)
            reports = sorted(self.run(job, ordered), key=lambda report: report.rank)
            emulation = conclude(workload, adapter, settings, reports)
            processes.save(emulation, directory)
        return msgspec.structs.replace(emulation, directory=str(directory))

    def run(self, job: EmulationJob, roles: Sequence[Role]) -> list[RoleReport]:
        """The reports of the roles, in their order, as many roles at once as there are cores.

        A role that breaks stops no other role.
        """
        code = code_digest(job.system)
        store.write_bytes(Path(job.output_directory) / "job.json", store.to_json(job))
        cores = min(available_cores(), len(roles))
        self.progress.note(f"emulating {len(roles)} role(s) on {cores} core(s)")
        ended = Event()
        reports: list[RoleReport] = []
        with ThreadPoolExecutor(max(1, cores)) as pool:
            try:
                for report in pool.map(lambda role: self.report(role, job, code, ended), roles):
                    reports.append(report)
                    line = processes.line_of(report)
                    self.progress.note(f"[{len(reports)}/{len(roles)}] {line}")
                    if self.stop_at_first_oom and exceeds(report, job.workload):
                        break
            finally:
                ended.set()
                pool.shutdown(cancel_futures=True)
        return reports

    def report(self, role: Role, job: EmulationJob, code: str, ended: Event) -> RoleReport:
        """The report of one role, from the cache or from its own process.

        code: the `code_digest` of the job's system. The job is in its folder.
        """
        report = self.cache.find(job, role, code) if self.cache else None
        if report is None:
            report = self.run_rank(role, job, self.time_limit_seconds, ended)
            try:
                if self.cache:
                    self.cache.keep(job, role, report, code)
            except OSError as error:
                self.progress.note(f"{role.name} is not kept for later: {error}")
        return report

    def refusal(self, workload: Workload, system: str, settings: Any) -> Emulation | None:
        """The verdict on a layout that the library refuses or that has no plan, else None.

        Nothing runs. Raises Misfit, NotSupported or ValueError.
        """
        adapter = registry.load(system)
        try:
            check_emulated(adapter, workload, settings)
            roles_of(adapter, workload, settings)
        except Misfit:
            raise
        except (Unavailable, Infeasible) as error:
            return self.refused(workload, system, settings, error)
        return None

    def refused(
        self, workload: Workload, system: str, settings: Any, error: Unavailable | Infeasible
    ) -> Emulation:
        """An emulation in which nothing ran, because of the error."""
        infeasible = isinstance(error, Infeasible)
        return msgspec.structs.replace(
            conclude(workload, registry.load(system), settings, []),
            status="infeasible" if infeasible else "unavailable",
            fits=False if infeasible else None,
            reason=str(error),
        )


def conclude(
    workload: Workload, adapter: Adapter, settings: Any, reports: list[RoleReport]
) -> Emulation:
    """The record of an emulation: judged, with a planner's predictions and the environment."""
    emulation = judged(workload, adapter, settings, reports)
    changes: dict[str, Any] = {}
    if isinstance(adapter, Planner) and reports:
        plan = adapter.plan(workload, settings)
        changes["settings_text"] = plan_words(plan_data(plan))
        changes["planned"] = planned_beside_counted(plan, reports)
    return msgspec.structs.replace(emulation, environment=describe_environment(), **changes)


def judged(
    workload: Workload, adapter: Adapter, settings: Any, reports: list[RoleReport]
) -> Emulation:
    """Verdict, roles and simulated time."""
    plain = msgspec.to_builtins(settings)
    profile = load_hardware(workload.cluster.hardware)
    return Emulation(
        workload=workload,
        system=adapter.name,
        settings=plain,
        settings_text=adapter.describe(settings),
        capacity_bytes=workload.device_memory_bytes,
        host_capacity_bytes=workload.host_memory_bytes,
        roles=reports,
        simulated_time=simulated_time(adapter.name, plain, workload, profile, reports),
        **verdict(reports, workload),
    )

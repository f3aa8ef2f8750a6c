"""All roles of an emulation, a process each, as many at once as there are cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from baselines.protocol import Adapter, Role
from benchmarks.emulation import fake_cluster, memory_figure
from benchmarks.emulation.cache import Cache, code_digest
from benchmarks.emulation.result import (
    Emulation,
    EmulationJob,
    RoleReport,
    exceeds,
    failed,
    moment_text,
)
from benchmarks.environment import available_cores
from benchmarks.launch import run as supervisor
from benchmarks.launch.processes import variables
from benchmarks.launch.progress import Lines
from benchmarks.records import store
from benchmarks.rows.assign import step_plans
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

TICK_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""From TERM to KILL."""
LAST_WORDS = 400
"""Characters of a log's end that tell why a process died."""


def new_directory(parent: Path, system: str, workload: Workload) -> Path:
    """A folder for this emulation. Raises OSError."""
    return supervisor.new_directory(
        parent, replace(workload, name=f"emulate-{system}-{workload.name}")
    )


def make_job(workload: Workload, adapter: Adapter, settings: Any, directory: Path) -> EmulationJob:
    """What the emulated ranks are told. Raises Infeasible, NotBuilt or ValueError."""
    return EmulationJob(
        workload=workload,
        system=adapter.name,
        settings=msgspec.to_builtins(settings),
        output_directory=str(directory),
        plans=step_plans(adapter, workload, settings),
    )


def run(
    job: EmulationJob,
    roles: Sequence[Role],
    adapter: Adapter,
    time_limit_seconds: float,
    *,
    cache: Cache | None = None,
    hasty: bool = False,
    told: Lines | None = None,
) -> list[RoleReport]:
    """The reports of the roles, in their order; a broken one stops no other.

    hasty: the first that needs more memory than there is does, and those that have not ended by
    then are left out. What the cache has is not run. Told on standard error, or to `told`.
    """
    directory = Path(job.output_directory)
    code = code_digest(job.system)
    store.write_bytes(directory / "job.json", store.to_json(job))
    waiting = deque(roles)
    running: list[_Process] = []
    reports: dict[int, RoleReport] = {}
    cores = available_cores()
    told = told or Lines()
    told.note(f"emulating {len(roles)} role(s) on {min(cores, len(roles))} core(s)")

    def take(report: RoleReport) -> bool:
        """Whether it is enough."""
        reports[report.rank] = report
        told.note(f"[{len(reports)}/{len(roles)}] {_line(report)}")
        return hasty and exceeds(report, job.workload)

    enough = False
    try:
        while (waiting or running) and not enough:
            while waiting and len(running) < cores and not enough:
                role = waiting.popleft()
                known = cache.find(job, role, adapter, code) if cache else None
                if known is None:
                    running.append(_start(role, job, adapter))
                else:
                    enough = take(known)
            if running and not enough:
                time.sleep(TICK_SECONDS)
            for process in list(running):
                report = process.report(directory, time_limit_seconds)
                if report is not None:
                    running.remove(process)
                    if cache:
                        try:
                            cache.keep(job, process.role, adapter, report, code)
                        except OSError as error:
                            told.note(f"{process.role.name} is not kept for later: {error}")
                    enough = take(report) or enough
    finally:
        for process in running:
            process.stop()
    return [reports[role.rank] for role in roles if role.rank in reports]


def save(found: Emulation, directory: Path) -> None:
    """emulation.json, and a figure beside each role's curve."""
    store.write_bytes(directory / "emulation.json", store.to_json(found))
    for report in found.roles:
        curve = directory / f"live-{report.rank}.csv"
        if report.counts is not None and curve.is_file():
            memory_figure.draw(found, report, curve, curve.with_suffix(".png"))


@dataclass(kw_only=True)
class _Process:
    """One emulated rank that runs."""

    role: Role
    popen: subprocess.Popen[bytes]
    log: Path
    started: float

    def report(self, directory: Path, time_limit_seconds: float) -> RoleReport | None:
        """How it ended, or None while it runs."""
        code = self.popen.poll()
        if code is None:
            if time.monotonic() - self.started < time_limit_seconds:
                return None
            self.stop()
            return failed(self.role, "timeout", f"stopped after {time_limit_seconds:g} s")
        path = directory / f"role-{self.role.rank}.json"
        if path.is_file():
            return msgspec.json.decode(path.read_bytes(), type=RoleReport)
        words = self.log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
        return failed(self.role, "failed", f"ended with exit code {code}: {words}")

    def stop(self) -> None:
        self.popen.terminate()
        try:
            self.popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def _start(role: Role, job: EmulationJob, adapter: Adapter) -> _Process:
    directory = Path(job.output_directory)
    log = directory / f"log-{role.rank}.txt"
    module = [sys.executable, "-m", "benchmarks.emulation.worker", str(directory / "job.json")]
    environment = {
        **os.environ,
        **variables(1, adapter.environment),
        **fake_cluster.variables(role.rank, job.workload.cluster),
    }
    with log.open("wb") as stream:
        popen = subprocess.Popen(
            [*module, role.name, str(role.rank), str(role.ranks)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    return _Process(role=role, popen=popen, log=log, started=time.monotonic())


def _line(report: RoleReport) -> str:
    took = "" if report.seconds is None else f" ({report.seconds:.0f} s)"
    took = " (reused)" if report.reused else took
    if report.counts is None:
        return f"{report.role}: {report.status}, {report.phase}: {report.reason}{took}"
    peak = format_bytes(report.counts.peak_device_bytes)
    return f"{report.role}: peak {peak} {moment_text(report.counts.peak_at)}{took}"

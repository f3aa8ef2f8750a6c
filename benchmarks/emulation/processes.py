"""All roles of an emulation, a process each, as many at once as there are cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import msgspec

from baselines.protocol import Adapter, Role
from benchmarks.emulation import memory_figure
from benchmarks.emulation.cache import EmulationCache, code_digest
from benchmarks.emulation.result import (
    Emulation,
    EmulationJob,
    RoleReport,
    exceeds,
    failed,
    position_text,
)
from benchmarks.environment import available_cores
from benchmarks.launch.processes import variables
from benchmarks.launch.progress import Lines
from benchmarks.records import store
from benchmarks.rows.assign import step_plans
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

TICK_SECONDS = 0.1
"""How often a running rank is looked at."""

LAST_WORDS = 400
"""Characters of a log's end that say why a process died."""


def make_job(workload: Workload, adapter: Adapter, settings: Any, directory: Path) -> EmulationJob:
    """The job that every emulated rank reads. Raises Infeasible, NotBuilt or ValueError."""
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
    cache: EmulationCache | None = None,
    stop_at_first_oom: bool = False,
    progress: Lines | None = None,
) -> list[RoleReport]:
    """The reports of the roles, in their order. A role that breaks stops no other role.

    time_limit_seconds: of one rank. cache: a role with an entry does not run. stop_at_first_oom:
    the first role that exceeds a memory capacity is the last one reported; the others are stopped.
    progress: standard error if not given.
    """
    progress = progress or Lines()
    code = code_digest(job.system)
    store.write_bytes(Path(job.output_directory) / "job.json", store.to_json(job))
    cores = min(available_cores(), len(roles))
    progress.note(f"emulating {len(roles)} role(s) on {cores} core(s)")
    ended = Event()

    def report_of(role: Role) -> RoleReport:
        report = cache.find(job, role, adapter, code) if cache else None
        if report is None:
            report = _emulate(role, job, adapter, time_limit_seconds, ended)
            try:
                if cache:
                    cache.keep(job, role, adapter, report, code)
            except OSError as error:
                progress.note(f"{role.name} is not kept for later: {error}")
        return report

    reports: list[RoleReport] = []
    with ThreadPoolExecutor(max(1, cores)) as pool:
        try:
            for report in pool.map(report_of, roles):
                reports.append(report)
                progress.note(f"[{len(reports)}/{len(roles)}] {_line(report)}")
                if stop_at_first_oom and exceeds(report, job.workload):
                    break
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)
    return reports


def save(emulation: Emulation, directory: Path) -> None:
    """A figure of each role's curve, then emulation.json, which marks the end."""
    for report in emulation.roles:
        curve = directory / f"live-{report.rank}.csv"
        if report.counts is not None and curve.is_file():
            memory_figure.draw(emulation, report, curve, curve.with_suffix(".png"))
    store.write_bytes(directory / "emulation.json", store.to_json(emulation))


def _emulate(
    role: Role, job: EmulationJob, adapter: Adapter, time_limit_seconds: float, ended: Event
) -> RoleReport:
    """Run one rank until its end, its time limit, or the end of the emulation."""
    directory, cluster = Path(job.output_directory), job.workload.cluster
    log = directory / f"log-{role.rank}.txt"
    module = [sys.executable, "-m", "benchmarks.emulation.worker", str(directory / "job.json")]
    environment = {
        **os.environ,
        **variables(1, adapter.environment),
        "CUDA_VISIBLE_DEVICES": "",  # numbers are the same on machines with and without a GPU
        "RANK": str(role.rank),
        "WORLD_SIZE": str(cluster.ranks),
        "LOCAL_RANK": str(role.rank % cluster.ranks_per_node),
        "LOCAL_WORLD_SIZE": str(cluster.ranks_per_node),
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*module, role.name, str(role.rank), str(role.ranks)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + time_limit_seconds
    while process.poll() is None:
        if ended.wait(TICK_SECONDS) or time.monotonic() > deadline:
            process.kill()
            process.wait()
            return failed(role, "timeout", f"stopped after {time_limit_seconds:g} s")
    path = directory / f"role-{role.rank}.json"
    if path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=RoleReport)
    words = log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
    return failed(role, "failed", f"ended with exit code {process.returncode}: {words}")


def _line(report: RoleReport) -> str:
    took = "" if report.seconds is None else f" ({report.seconds:.0f} s)"
    took = " (reused)" if report.reused else took
    took = f" (stale: commit {report.stale_commit[:9]})" if report.stale_commit else took
    if report.counts is None:
        return f"{report.role}: {report.status}, {report.phase}: {report.reason}{took}"
    peak = format_bytes(report.counts.peak_device_bytes)
    return f"{report.role}: peak {peak} {position_text(report.counts.peak_at)}{took}"

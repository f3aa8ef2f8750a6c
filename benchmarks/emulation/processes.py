"""One role of an emulation: its job, its process, its files."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Adapter, Role
from benchmarks.emulation import memory_figure
from benchmarks.emulation.result import Emulation, EmulationJob, RoleReport, failed, position_text
from benchmarks.environment import child_environment
from benchmarks.launch.ranks.blame import signal_name
from benchmarks.launch.ranks.processes import variables
from benchmarks.records import store
from benchmarks.rows.assign import step_plans
from benchmarks.worker.parent import parent_variable
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload

TICK_SECONDS = 0.1
"""How often a running rank is looked at."""

LAST_WORDS = 400
"""Characters of a log's end that say why a process died."""


def make_job(workload: Workload, adapter: Adapter, settings: Any, directory: Path) -> EmulationJob:
    """The job that every emulated rank reads. Raises Infeasible, NotSupported or ValueError."""
    return EmulationJob(
        workload=workload,
        system=adapter.name,
        settings=msgspec.to_builtins(settings),
        output_directory=str(directory),
        plans=step_plans(adapter, workload, settings),
    )


def save(emulation: Emulation, directory: Path) -> None:
    """A figure of each role's curve, then emulation.json, which marks the end."""
    for report in emulation.roles:
        curve = directory / f"live-{report.rank}.csv"
        if report.counts is not None and curve.is_file():
            memory_figure.draw(emulation, report, curve, curve.with_suffix(".png"))
    store.write_bytes(directory / "emulation.json", store.to_json(emulation))


def emulate_rank(
    role: Role, job: EmulationJob, time_limit_seconds: float, ended: Event
) -> RoleReport:
    """Run one rank until its end, its time limit, or the end of the emulation."""
    directory = Path(job.output_directory)
    log = directory / f"log-{role.rank}.txt"
    module = [sys.executable, "-m", "benchmarks.emulation.worker", str(directory / "job.json")]
    environment = environment_of(role, job)
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
    words = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-LAST_WORDS:]
    code = process.returncode
    how = f"died ({signal_name(-code)})" if code < 0 else f"ended with exit code {code}"
    return failed(role, "failed", f"{how}: {words}" if words else how)


def environment_of(role: Role, job: EmulationJob) -> dict[str, str]:
    """The environment of an emulated rank's process."""
    cluster = job.workload.cluster
    return {
        **child_environment(variables(1, registry.load(job.system).environment)),
        **parent_variable(),
        "CUDA_VISIBLE_DEVICES": "",  # numbers are the same on machines with and without a GPU
        "RANK": str(role.rank),
        "WORLD_SIZE": str(cluster.ranks),
        "LOCAL_RANK": str(role.rank % cluster.ranks_per_node),
        "LOCAL_WORLD_SIZE": str(cluster.ranks_per_node),
    }


def line_of(report: RoleReport) -> str:
    """How the rank ended, in one line."""
    took = "" if report.seconds is None else f" ({report.seconds:.0f} s)"
    took = " (reused)" if report.reused else took
    took = f" (stale: commit {report.stale_commit[:9]})" if report.stale_commit else took
    if report.counts is None:
        return f"{report.role}: {report.status}, {report.phase}: {report.reason}{took}"
    peak = format_bytes(report.counts.peak_device_bytes)
    return f"{report.role}: peak {peak} {position_text(report.counts.peak_at)}{took}"

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
    log = log_of(role, job)
    module = [sys.executable, "-m", "benchmarks.emulation.worker"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*module, *arguments_of(role, job)],
            env=environment_of(role, job),
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
    return report_of(role, job, process.returncode)


def arguments_of(role: Role, job: EmulationJob) -> list[str]:
    """The arguments of the worker's `main` for this rank."""
    path = Path(job.output_directory) / "job.json"
    return [str(path), role.name, str(role.rank), str(role.ranks)]


def log_of(role: Role, job: EmulationJob) -> Path:
    """The file with what the rank prints."""
    return Path(job.output_directory) / f"log-{role.rank}.txt"


def report_of(role: Role, job: EmulationJob, code: int) -> RoleReport:
    """What an ended rank has written; without a report its last words and its exit code."""
    path = Path(job.output_directory) / f"role-{role.rank}.json"
    if path.is_file():
        return msgspec.json.decode(path.read_bytes(), type=RoleReport)
    text = log_of(role, job).read_text(encoding="utf-8", errors="replace")
    words = " ".join(text.split())[-LAST_WORDS:]
    how = f"died ({signal_name(-code)})" if code < 0 else f"ended with exit code {code}"
    return failed(role, "failed", f"{how}: {words}" if words else how)


def environment_of(role: Role, job: EmulationJob) -> dict[str, str]:
    """The environment of an emulated rank's process."""
    cluster = job.workload.cluster
    return {
        **system_environment(job.system),
        "RANK": str(role.rank),
        "WORLD_SIZE": str(cluster.ranks),
        "LOCAL_RANK": str(role.rank % cluster.ranks_per_node),
        "LOCAL_WORLD_SIZE": str(cluster.ranks_per_node),
    }


def system_environment(system: str) -> dict[str, str]:
    """What the environments of all emulated ranks of a system share."""
    return {
        **child_environment(variables(1, registry.load(system).environment)),
        **parent_variable(),
        "CUDA_VISIBLE_DEVICES": "",  # numbers are the same on machines with and without a GPU
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

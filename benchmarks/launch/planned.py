"""One launch of a system that may plan: the plans are made here, once, and travel in the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from benchmarks.job import Job, Progress, Status
from benchmarks.launch import processes
from benchmarks.launch.outcome import Outcome
from benchmarks.launch.processes import Nodes
from benchmarks.rows.assign import step_plans
from sppo.config.errors import Infeasible, NotBuilt


def launch(
    job: Job,
    *,
    environment: Mapping[str, str],
    time_limit_seconds: float,
    on_progress: Callable[[Progress], None],
    nodes: Nodes | None = None,
) -> Outcome:
    """As `processes.launch`, with the system's plans. No plan and no process are outcomes too."""
    try:
        job = with_plans(job)
    except Infeasible as error:
        return _ended("infeasible", str(error))
    except NotBuilt as error:
        return _ended("unavailable", str(error))
    except (ValueError, msgspec.ValidationError) as error:
        return _ended("failed", f"no plan: {error}")
    try:
        return processes.launch(
            job,
            environment=environment,
            time_limit_seconds=time_limit_seconds,
            on_progress=on_progress,
            nodes=nodes,
        )
    except OSError as error:
        return _ended("failed", f"could not launch: {error}")


def _ended(status: Status, reason: str) -> Outcome:
    return Outcome(status=status, reason=reason, reports=[])


def with_plans(job: Job) -> Job:
    """The job with the plans of its system, if that plans. Raises Infeasible, NotBuilt, ValueError.

    They are made for the job's own workload: its length or limit may not be the row's.
    """
    from baselines import registry
    from baselines.protocol import Planner

    adapter = registry.load(job.system)
    if not isinstance(adapter, Planner):
        return job
    settings: Any = msgspec.convert(job.settings, adapter.settings_type)
    return msgspec.structs.replace(job, plans=step_plans(adapter, job.workload, settings))

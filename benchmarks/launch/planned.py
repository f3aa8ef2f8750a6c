"""One launch of a system that may plan. The plans are made here, once, and go into the job."""

from __future__ import annotations

from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import Planner
from benchmarks.job import Job, Status
from benchmarks.launch.host_room import check_host
from benchmarks.launch.ranks import processes
from benchmarks.launch.ranks.outcome import Outcome
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.launch.ranks.team import NodeLost
from benchmarks.rows.assign import step_plans
from sppo.config.errors import HostTierFull, Infeasible, NotSupported


def launch(job: Job, options: LaunchOptions) -> Outcome:
    """As `processes.launch`, with the plans of the system. A missing plan is an outcome too.

    Raises NodeLost: no launch can follow.
    """
    try:
        job = with_plans(job)
        check_host(job)
    except Infeasible as error:
        return _no_launch("infeasible", str(error))
    except NotSupported as error:
        return _no_launch("unavailable", str(error))
    except HostTierFull as error:
        return _no_launch("host_oom", str(error))
    except (ValueError, msgspec.ValidationError) as error:
        return _no_launch("failed", f"no plan: {error}")
    try:
        return processes.launch(job, options)
    except NodeLost:
        raise
    except OSError as error:
        return _no_launch("failed", f"could not launch: {error}")


def _no_launch(status: Status, reason: str) -> Outcome:
    return Outcome(status=status, reason=reason, reports=[])


def with_plans(job: Job) -> Job:
    """The job with the plans of its system, if that plans.

    Raises Infeasible, NotSupported or ValueError. The plans are for the job's own
    workload: its length or limit may differ from the row's.
    """
    adapter = registry.load(job.system)
    if not isinstance(adapter, Planner):
        return job
    settings: Any = msgspec.convert(job.settings, adapter.settings_type)
    plans = step_plans(adapter, job.workload, settings)
    return msgspec.structs.replace(job, plans=plans)

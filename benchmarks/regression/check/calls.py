"""Costs without a clock: calls of planning; counts, operators and calls of an emulated step.

Each case is counted in a process of its own with a fixed hash seed (`call_worker`). Each role of a
step is counted in a fork of that process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from baselines.protocol import Role
from benchmarks.emulation.processes import report_of, system_environment
from benchmarks.emulation.result import EmulationJob, RoleReport, failed
from benchmarks.environment import child_environment, import_path
from benchmarks.regression.check.call_worker import FURTHER, values_path
from benchmarks.regression.check.differences import Values
from benchmarks.regression.check.workers import Processes
from benchmarks.worker.parent import parent_variable

MARGIN = 0.01
"""Relative, of every number of calls: repeated counts differ by less (docs/regression.md)."""

PLANNED = ("tiny-cpu", "gpt-7b-1m-32xa100")
"""Workloads whose planning is counted."""

LIMIT_SECONDS = 1200.0
"""Of a process that counts a small case: seconds of work, on a machine however busy."""


def planning_calls(name: str, processes: Processes) -> Values:
    """Calls of planning a named workload, by the package that makes them. Raises RuntimeError."""
    environment = {**child_environment(import_path()), **parent_variable()}
    values: Values = _counted(processes, ("planning", name), environment, LIMIT_SECONDS)
    return values


def emulated_roles(
    roles: Sequence[Role],
    job: EmulationJob,
    processes: Processes,
    limit_seconds: float,
    *,
    further: bool,
) -> list[tuple[RoleReport, Values]]:
    """The reports of emulated roles; with `further` their operators and calls as well.

    A role that breaks is failed. So are all, if they run longer than the limit of each together.
    """
    path = Path(job.output_directory) / "job.json"
    encoded = msgspec.json.encode(roles).decode()
    arguments = ("step", str(path), encoded, FURTHER if further else "alone")
    environment = system_environment(job.system)
    try:
        codes = _counted(processes, arguments, environment, limit_seconds * len(roles))
    except RuntimeError as error:
        return [(failed(role, "failed", str(error)), {}) for role in roles]
    return [
        (report_of(role, job, code), _values(role, job))
        for role, code in zip(roles, codes, strict=True)
    ]


def _values(role: Role, job: EmulationJob) -> Values:
    """What the worker counted in the role's further steps; nothing of a role that broke."""
    path = values_path(role, job)
    if not path.is_file():
        return {}
    values: Values = json.loads(path.read_bytes())
    return values


def _counted(
    processes: Processes,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit_seconds: float,
) -> Any:
    """What the worker prints last. Raises RuntimeError with the end of its errors."""
    command = [sys.executable, "-m", "benchmarks.regression.check.call_worker", *arguments]
    printed = processes.run(command, {**environment, "PYTHONHASHSEED": "0"}, limit_seconds)
    return json.loads(printed.splitlines()[-1])

"""Costs without a clock: calls of planning; counts, operators and calls of an emulated step.

Each case is counted in a process of its own with a fixed hash seed (`call_worker`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from baselines.protocol import Role
from benchmarks.emulation.processes import arguments_of, environment_of
from benchmarks.emulation.result import EmulationJob, RoleReport, failed
from benchmarks.environment import child_environment, import_path
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
    return _counted(processes, ("planning", name), environment, LIMIT_SECONDS)


def emulated_role(
    role: Role, job: EmulationJob, processes: Processes, limit_seconds: float, *, further: bool
) -> tuple[RoleReport, Values]:
    """The report of an emulated role; with `further` its operators and calls as well.

    A role that breaks, or runs longer than the limit, is failed.
    """
    arguments = ("step", *arguments_of(role, job), "further" if further else "alone")
    try:
        values = _counted(processes, arguments, environment_of(role, job), limit_seconds)
    except RuntimeError as error:
        values, reason = {}, str(error)
    else:
        reason = "no report"
    path = Path(job.output_directory) / f"role-{role.rank}.json"
    if not path.is_file():
        return failed(role, "failed", reason), values
    return msgspec.json.decode(path.read_bytes(), type=RoleReport), values


def _counted(
    processes: Processes,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limit_seconds: float,
) -> Values:
    """What the worker prints last. Raises RuntimeError with the end of its errors."""
    command = [sys.executable, "-m", "benchmarks.regression.check.call_worker", *arguments]
    printed = processes.run(command, {**environment, "PYTHONHASHSEED": "0"}, limit_seconds)
    values: Values = json.loads(printed.splitlines()[-1])
    return values

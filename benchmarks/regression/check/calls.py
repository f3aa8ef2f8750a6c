"""Costs without a clock: calls of planning; counts, operators and calls of an emulated step.

Each case is counted in a process of its own with a fixed hash seed (`call_worker`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from baselines.protocol import Role
from benchmarks.emulation import processes
from benchmarks.emulation.result import EmulationJob, RoleReport, failed
from benchmarks.environment import child_environment, import_path
from benchmarks.regression.check.differences import Values

MARGIN = 0.01
"""Relative, of every number of calls: repeated counts differ by less (docs/regression.md)."""

PLANNED = ("tiny-cpu", "gpt-7b-1m-32xa100")
"""Workloads whose planning is counted."""

LAST_CHARACTERS = 300
"""Of the error of a process that counts."""


def planning_calls(name: str) -> Values:
    """Calls of planning a named workload, by the package that makes them."""
    return _counted(("planning", name), child_environment(import_path()))


def emulated_role(role: Role, job: EmulationJob, *, further: bool) -> tuple[RoleReport, Values]:
    """The report of an emulated role; with `further` its operators and calls as well."""
    folder = Path(job.output_directory)
    steps = "further" if further else "alone"
    place = (role.name, str(role.rank), str(role.ranks))
    arguments = ("step", str(folder / "job.json"), *place, steps)
    try:
        values = _counted(arguments, processes.environment_of(role, job))
    except RuntimeError as error:
        values, reason = {}, str(error)
    else:
        reason = "no report"
    path = folder / f"role-{role.rank}.json"
    if not path.is_file():
        return failed(role, "failed", reason), values
    return msgspec.json.decode(path.read_bytes(), type=RoleReport), values


def _counted(arguments: Sequence[str], environment: Mapping[str, str]) -> Values:
    """What the worker prints last. Raises RuntimeError with the end of its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.regression.check.call_worker", *arguments],
        env={**environment, "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-LAST_CHARACTERS:])
    values: Values = json.loads(done.stdout.splitlines()[-1])
    return values

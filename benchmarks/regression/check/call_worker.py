"""A process that counts one case: calls by the package that makes them, operators by name.

    python -m benchmarks.regression.check.call_worker planning WORKLOAD
    python -m benchmarks.regression.check.call_worker step JOB.json ROLES further

It prints JSON: of planning its calls, of a step the exit code of each role. ROLES is JSON too. Each
role is emulated in a fork, with the libraries imported once, and writes its report and its values.
Calls of Python and of C count alike. The standard library's and torch's own calls do not: only
those that the code of this project or of a measured library makes.
"""

from __future__ import annotations

import cProfile
import gc
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import msgspec

from baselines.protocol import Role, System
from benchmarks.emulation.forked.rank_server import exit_code_of_fork, import_libraries
from benchmarks.emulation.processes import arguments_of, environment_of, log_of
from benchmarks.emulation.result import EmulationJob
from benchmarks.environment import CHECKOUT
from benchmarks.regression.check.differences import Values
from benchmarks.worker.parent import end_with_parent
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.planner.solve import solve

if TYPE_CHECKING:
    import torch

FURTHER = "further"
"""The argument that asks for operators and calls of further steps."""

LIBRARIES = ("megatron", "deepspeed")
"""Libraries whose calls count, by their top-level package."""

WARM = "mini-cpu"
"""Planned before: it imports what planning needs."""


def main() -> None:
    """Count the case of the command line."""
    end_with_parent(signal.SIGKILL)
    kind, *arguments = sys.argv[1:]
    print(json.dumps(planning(*arguments) if kind == "planning" else step(*arguments)))


def planning(name: str) -> Values:
    """Calls of planning a named workload."""
    _solve(WARM)
    with _counting() as calls:
        _solve(name)
    return {"calls": dict(calls)}


def _solve(name: str) -> None:
    workload = find(name)
    solve(workload, load_hardware(workload.cluster.hardware))


def step(path: str, roles: str, further: str) -> list[int]:
    """Emulate each role in a fork; their exit codes."""
    from benchmarks.accounting.visible import spare_live_objects

    job = msgspec.json.decode(Path(path).read_bytes(), type=EmulationJob)
    import_libraries(job.system)
    spare_live_objects()
    codes = []
    for role in msgspec.json.decode(roles, type=list[Role]):
        work = partial(_step, role, job, further=further == FURTHER)
        codes.append(exit_code_of_fork(work, environment_of(role, job), str(log_of(role, job))))
    return codes


def _step(role: Role, job: EmulationJob, *, further: bool) -> None:
    """Emulate the role, which reports itself. With `further` operators of the next step count, and
    calls of one more, because counting operators makes calls.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    from benchmarks.emulation.worker import emulate

    class Operators(TorchDispatchMode):
        """Counts operators by name, messages included."""

        def __init__(self) -> None:
            super().__init__()
            self.counts = Counter[str]()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.counts[str(func)] += 1
            return func(*args, **(kwargs or {}))

    values: Values = {}

    def count(system: System, tokens: torch.Tensor) -> None:
        with Operators() as operators:
            system.step(tokens)
        with _counting() as calls:
            system.step(tokens)
        values.update(operators=dict(operators.counts), calls=dict(calls))

    emulate(*arguments_of(role, job), further=count if further else None)
    values_path(role, job).write_text(json.dumps(values))


def values_path(role: Role, job: EmulationJob) -> Path:
    """The file with the operators and calls of a role's further steps."""
    return Path(job.output_directory) / f"values-{role.rank}.json"


@contextmanager
def _counting() -> Iterator[Counter[str]]:
    """Count the calls inside, by calling package. No garbage is collected meanwhile."""
    calls = Counter[str]()
    profiler = cProfile.Profile()
    gc.collect()
    gc.disable()
    profiler.enable()
    try:
        yield calls
    finally:
        profiler.disable()
        gc.enable()
    for entry in profiler.getstats():
        package = _package(entry.code)
        if package is not None:
            calls[package] += sum(called.callcount for called in entry.calls or ())
    for package in [package for package, count in calls.items() if not count]:
        del calls[package]


def _package(code: CodeType | str) -> str | None:
    """The package that counts this code's calls: "sppo.planner", "megatron", or None."""
    if isinstance(code, str):
        return None
    path = Path(code.co_filename)
    if path.is_relative_to(CHECKOUT / "sppo") or path.is_relative_to(CHECKOUT / "baselines"):
        return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts[:2])
    parts = path.parts
    if "site-packages" not in parts:
        return None
    top = parts[parts.index("site-packages") + 1]
    return top if top in LIBRARIES else None


if __name__ == "__main__":
    main()

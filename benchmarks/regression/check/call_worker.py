"""A process that counts one case: calls by the package that makes them, operators by name.

    python -m benchmarks.regression.check.call_worker planning WORKLOAD
    python -m benchmarks.regression.check.call_worker step JOB.json ROLE RANK RANKS further

It prints JSON. Calls of Python and of C count alike. The standard library's and torch's own calls
do not: only those that the code of this project or of a measured library makes.
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
from pathlib import Path
from types import CodeType
from typing import Any

from benchmarks.environment import CHECKOUT
from benchmarks.regression.check.differences import Values
from benchmarks.worker.parent import end_with_parent
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.planner.solve import solve

LIBRARIES = ("megatron", "deepspeed")
"""Libraries whose calls count, by their top-level package."""

WARM = "mini-cpu"
"""Planned before: it imports what planning needs."""


def main() -> None:
    """Count the case of the command line and print its values."""
    end_with_parent(signal.SIGKILL)
    kind, *arguments = sys.argv[1:]
    values = planning(*arguments) if kind == "planning" else step(*arguments)
    print(json.dumps(values))


def planning(name: str) -> Values:
    """Calls of planning a named workload."""
    _solve(WARM)
    with _counting() as calls:
        _solve(name)
    return {"calls": dict(calls)}


def _solve(name: str) -> None:
    workload = find(name)
    solve(workload, load_hardware(workload.cluster.hardware))


def step(path: str, name: str, rank: str, ranks: str, further: str) -> Values:
    """Emulate the role, which reports itself. With "further": operators of the next step, and calls
    of one more, because counting operators makes calls.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from baselines.protocol import System
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

    emulate(path, name, rank, ranks, further=count if further == "further" else None)
    return values


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

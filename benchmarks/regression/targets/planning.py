"""Planning and simulating, timed. No torch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import workloads
from benchmarks.regression.targets.target import Repetition
from benchmarks.reporting.simulated_step import of_unit_costs
from sppo.config.hardware import load_hardware
from sppo.planner.solve import solve


@contextmanager
def plan() -> Iterator[Repetition]:
    """The search for tiny-cpu's plan. A command plans once, so every repetition starts cold."""
    workload = workloads.find("tiny-cpu")
    profile = load_hardware(workload.cluster.hardware)

    def repetition() -> object:
        for cached in _caches():
            cached.cache_clear()
        return solve(workload, profile)

    yield repetition


def _caches() -> list[Any]:
    """The caches of all imported functions of the planner and what it reads."""
    return [
        value
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "sppo"
        for value in vars(module).values()
        if isinstance(value, functools._lru_cache_wrapper)
    ]


@contextmanager
def simulation() -> Iterator[Repetition]:
    """A pipeline in unit costs: schedule, check and simulation."""

    def repetition() -> object:
        return of_unit_costs(
            pipeline_parallel=4, virtual_stages=2, subsequences=32, sequences=1, msp=False
        )

    yield repetition

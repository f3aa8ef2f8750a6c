"""The workload and profile that the planner's tests share."""

from __future__ import annotations

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager

from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload
from sppo.planner.options import SolverOptions

PROFILE = load_hardware("cpu-2core")

TINY = Workload(
    name="tiny",
    model=MODELS["gpt-tiny"],
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
    sequence_tokens=4096,
)

RESIDENT = SolverOptions(kv_offload=False)
"""K and V stay on the device."""


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Calls of Python and C functions within; a million take about half a second on a slow core.

    Unlike seconds, they are the same on a busy machine.
    """
    calls: list[int] = []
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield calls
    finally:
        profile.disable()
        calls.append(sum(entry.callcount for entry in profile.getstats()))

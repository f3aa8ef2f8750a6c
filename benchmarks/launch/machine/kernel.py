"""A fixed small kernel, timed beside every launch: the machine's own noise."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.records import metrics

SIZE = 256
"""Rows and columns of the matrices: they fit any cache, so a core's speed alone decides."""

PRODUCTS = 8
"""Products of each thread in one repetition, some milliseconds in all."""

BUDGET_SECONDS = 0.15


@dataclass(frozen=True, kw_only=True)
class KernelReading:
    """Median seconds of a repetition, and the interquartile range over the median."""

    seconds: float
    spread: float


def read_kernel(threads: int, budget_seconds: float = BUDGET_SECONDS) -> KernelReading:
    """Time repetitions for the budget. One ends when its slowest thread ends, as a step does.

    Each thread limits itself: OpenMP and MKL keep a limit per thread, and a new one has none.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    left = torch.ones(SIZE, SIZE)
    right = left.t().contiguous()

    def multiply(_: int) -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right)

    times: list[float] = []
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(multiply, range(threads)))
            end = time.perf_counter() + budget_seconds
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                list(pool.map(multiply, range(threads)))
                times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    spread = metrics.spread(times)
    assert spread is not None, "there is a repetition"
    return KernelReading(seconds=spread.median, spread=(spread.high - spread.low) / spread.median)

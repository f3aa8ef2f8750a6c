"""A fixed small kernel, timed beside every launch: the machine's own noise."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.records import metrics

SIZE = 256
"""Rows and columns of the matrices: they fit any cache, so a core's speed alone decides."""

PRODUCTS = 8
"""Products of each thread in one repetition, some milliseconds in all."""

BUDGET_SECONDS = 0.15


def read_kernel(threads: int, budget_seconds: float = BUDGET_SECONDS) -> metrics.Spread:
    """The seconds of repetitions within the budget. Each ends with its slowest thread, as a step.

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
    return spread

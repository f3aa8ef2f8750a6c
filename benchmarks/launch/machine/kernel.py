"""A fixed small kernel, timed beside every launch: the machine's own noise."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.records import metrics

SIZE = 256
"""Rows and columns of the matrices: they fit any cache, so a core's speed alone decides."""

PRODUCTS = 8
"""Products in one repetition of a thread, some milliseconds in all."""

BUDGET_SECONDS = 0.15


def read_kernel(threads: int, budget_seconds: float = BUDGET_SECONDS) -> metrics.Spread:
    """The seconds of a repetition, of the slowest thread; repetitions fill the budget.

    Threads do not wait for each other. A scheduler may put threads that often wait on the same
    core, and leave another core idle; busy threads are spread over the cores within milliseconds.
    Each thread limits itself: OpenMP and MKL keep a limit per thread, and a new one has none.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    left = torch.ones(SIZE, SIZE)
    right = left.t().contiguous()

    def repeat(_: int) -> metrics.Spread:
        times: list[float] = []
        end = time.perf_counter() + budget_seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(PRODUCTS):
                torch.mm(left, right)
            times.append(time.perf_counter() - start)
        spread = metrics.spread(times)
        assert spread is not None, "there is a repetition"
        return spread

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return max(pool.map(repeat, range(threads)), key=lambda spread: spread.median)
    finally:
        torch.set_num_threads(before)

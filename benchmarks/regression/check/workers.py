"""Where values are measured: planning in processes, rank processes beside each other."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from typing import TypeVar

from benchmarks.environment import available_cores
from benchmarks.regression.check.differences import CaseValues, Values

_Task = TypeVar("_Task")

Collect = Callable[[], CaseValues]
"""Waits for the values of a topic."""


class Workers:
    """As many processes as cores for planning, and threads that each wait for a process.

    Both begin with their first task. To be closed.
    """

    def __init__(self) -> None:
        self._pools = ExitStack()
        self._planned: dict[object, Future[Values]] = {}

    @cached_property
    def _planning(self) -> Executor:
        fresh = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            available_cores(),
            mp_context=fresh,
            # Ctrl-C reaches these processes too: the command alone answers it.
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        )
        return self._opened(pool)

    @cached_property
    def _waiting(self) -> Executor:
        return self._opened(ThreadPoolExecutor(available_cores()))

    def _opened(self, pool: Executor) -> Executor:
        self._pools.callback(pool.shutdown, cancel_futures=True)
        return pool

    def close(self) -> None:
        """End: tasks that have not begun are dropped."""
        self._pools.close()

    def plan(self, measure: Callable[[_Task], Values], tasks: Mapping[str, _Task]) -> Collect:
        """Begin the planning tasks; each runs once, in whichever topics it is."""
        begun = {}
        for name, task in tasks.items():
            if task not in self._planned:
                self._planned[task] = self._planning.submit(measured, measure, task)
            begun[name] = self._planned[task]
        return lambda: {name: future.result() for name, future in begun.items()}

    def wait_for(self, measure: Callable[[_Task], Values], tasks: Mapping[str, _Task]) -> Collect:
        """Begin tasks that run processes of their own."""
        begun = {
            name: self._waiting.submit(measured, measure, task) for name, task in tasks.items()
        }
        return lambda: {name: future.result() for name, future in begun.items()}


def measured(measure: Callable[[_Task], Values], task: _Task) -> Values:
    """The values of a task. An error of the code under test is a value too, and so a difference."""
    try:
        return measure(task)
    except Exception as error:
        words = " ".join(str(error).split())
        return {"status": "failed", "reason": f"{type(error).__name__}: {words}"}


def failures(values: CaseValues) -> list[str]:
    """Cases that ended in an error, with the error."""
    return [
        f"{case}: {entry.get('reason')}"
        for case, entry in values.items()
        if entry.get("status") in ("failed", "timeout", "mismatch")
    ]

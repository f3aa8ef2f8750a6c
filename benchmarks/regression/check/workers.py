"""Where values are measured: planning in processes, rank processes beside each other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.environment import available_cores
from benchmarks.regression.check.differences import CaseValues, Values

_Task = TypeVar("_Task")

Collect = Callable[[], CaseValues]
"""Waits for the values of a topic."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """As many processes as cores for planning, and threads that each wait for a process.

    planned: plans that several topics share, by their task.
    """

    planning: Executor
    waiting: Executor
    planned: dict[object, Future[Values]] = field(default_factory=dict)

    @classmethod
    def start(cls) -> Workers:
        """Nothing runs before the first task. To be closed."""
        cores = available_cores()
        fresh = multiprocessing.get_context("spawn")
        return cls(
            planning=ProcessPoolExecutor(cores, mp_context=fresh),
            waiting=ThreadPoolExecutor(cores),
        )

    def close(self) -> None:
        """End at once: tasks that have not begun are dropped."""
        self.planning.shutdown(cancel_futures=True)
        self.waiting.shutdown(cancel_futures=True)

    def plan(self, measure: Callable[[_Task], Values], tasks: Mapping[str, _Task]) -> Collect:
        """Begin the planning tasks; each runs once, in whichever topics it is."""
        begun = {}
        for name, task in tasks.items():
            if task not in self.planned:
                self.planned[task] = self.planning.submit(measured, measure, task)
            begun[name] = self.planned[task]
        return lambda: {name: future.result() for name, future in begun.items()}

    def wait_for(self, measure: Callable[[_Task], Values], tasks: Mapping[str, _Task]) -> Collect:
        """Begin tasks that run processes of their own."""
        begun = {name: self.waiting.submit(measured, measure, task) for name, task in tasks.items()}
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

"""Where values are measured: planning in processes, rank processes beside each other."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cached_property
from pickle import PickleError
from subprocess import SubprocessError
from threading import Lock
from typing import Any, TypeVar

from msgspec import MsgspecError

from benchmarks.environment import available_cores
from benchmarks.regression.check.differences import CaseValues, Values, not_finite
from benchmarks.worker.parent import end_with_parent, parent_variable

_Task = TypeVar("_Task")

Collect = Callable[[], CaseValues]
"""Waits for the values of a topic."""

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    MsgspecError,
    PickleError,
    SubprocessError,
)
"""What code under test raises: a fault there is a value. A killed planning process raises
BrokenProcessPool, a RuntimeError. Other errors are the check's own and end the command."""

LAST_CHARACTERS = 300
"""Of the errors of a process that failed."""


class Processes:
    """Processes that threads wait for, each with a time limit. `end` ends them all."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], limit_seconds: float
    ) -> str:
        """What the process prints. Raises RuntimeError with the end of its errors."""
        with self._lock:
            if self._ended:
                raise RuntimeError("the check has ended")
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._running.add(process)
        try:
            printed, errors = process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"stopped after {limit_seconds:g} s") from None
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            words = " ".join(errors.split())[-LAST_CHARACTERS:]
            raise RuntimeError(words or f"ended with {process.returncode}")
        return printed

    def end(self) -> None:
        """Kill the running processes, and begin no further ones."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()


class Workers:
    """As many processes as cores for planning, and threads that each wait for a process.

    Both begin with their first task. To be closed.
    """

    def __init__(self) -> None:
        self._processes = Processes()
        self._pools: list[ProcessPoolExecutor | ThreadPoolExecutor] = []
        self._planned: dict[object, Future[Values]] = {}

    @cached_property
    def _planning(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            available_cores(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(parent_variable(),),
        )
        self._pools.append(pool)
        return pool

    @cached_property
    def _waiting(self) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(available_cores())
        self._pools.append(pool)
        return pool

    def close(self) -> None:
        """End at once: running processes are killed, tasks that have not begun are dropped."""
        self._processes.end()
        for pool in self._pools:
            if isinstance(pool, ProcessPoolExecutor) and not all(
                future.done() for future in self._planned.values()
            ):
                _kill(pool)
            pool.shutdown(cancel_futures=True)

    def plan(self, measure: Callable[[_Task], Values], tasks: Mapping[str, _Task]) -> Collect:
        """Begin the planning tasks; each runs once, in whichever topics it is.

        Raises BrokenProcessPool, as what is returned does, where a planning process was killed.
        """
        begun = {}
        for name, task in tasks.items():
            if task not in self._planned:
                self._planned[task] = self._planning.submit(measured, measure, task)
            begun[name] = self._planned[task]
        return lambda: {name: future.result() for name, future in begun.items()}

    def wait_for(
        self, measure: Callable[[_Task, Processes], Values], tasks: Mapping[str, _Task]
    ) -> Collect:
        """Begin tasks that run processes of their own."""
        begun = {
            name: self._waiting.submit(measured, measure, task, self._processes)
            for name, task in tasks.items()
        }
        return lambda: {name: future.result() for name, future in begun.items()}


def _begin(parent: Mapping[str, str]) -> None:
    """Begin a planning process, which ends with the command even where that is killed.

    Ctrl-C reaches this process too: the command alone answers it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(parent)
    end_with_parent(signal.SIGKILL)
    gc.freeze()  # plans are made of many tuples and of few cycles
    gc.set_threshold(100_000, 50, 50)


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool in the middle of their tasks."""
    # Python 3.14 names this kill_workers; before, only the private table has the processes.
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
        process.join()


def measured(measure: Callable[..., Values], *arguments: Any) -> Values:
    """The values of a task. An error of the code under test is a value too, and so a difference."""
    try:
        return measure(*arguments)
    except FAULTS as error:
        return {"status": "failed", "reason": words_of(error)}


def words_of(error: Exception) -> str:
    """An error in one line: "ValueError: no such layout"."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def failures(values: CaseValues, accepted: Sequence[str]) -> list[str]:
    """Cases with no result to accept, each with its reason.

    `accepted` are the statuses that are results. A case without a status is one.
    """
    failed = []
    for case, entry in values.items():
        status = entry.get("status")
        if status is not None and status not in accepted:
            failed.append(f"{case}: {entry.get('reason') or status}")
        elif not_finite(entry):
            failed.append(f"{case}: a number is not finite")
    return failed

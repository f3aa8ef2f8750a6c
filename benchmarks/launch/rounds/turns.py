"""Launches that take their measured steps in turn: all rows see the same moments of the machine.

A machine whose speed changes within seconds slows one row and not the next, if each row's steps
run together. Here the launches of a round are alive at once, and one of them runs at a time: each
up to its first measured step, then one measured step each, forwards and backwards in turn. All
others wait without work. So steps of one turn are pairs (`benchmarks.records.timing`).

Each launch runs on a thread of its own; `Turn.resume` hands over to that thread and waits for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.job import Job, Phase, Progress
from benchmarks.launch.ranks.processes import LaunchOptions, undisturbed
from benchmarks.records.record import Record

Report = Callable[[Progress], None]
"""Gets each step that has ended."""

FIFO_NAME = "turn"
"""The named pipe in the folder of a launch: rank 0 reads one byte before each measured step."""


class Stopped(BaseException):
    """The round was stopped from outside. Ends a launch as an interrupt does."""


class Turn:
    """One launch of a round: runs between `resume` and its next `wait`.

    round: the name of the round, the same for all its launches. launches: those of the round.
    is_taken: whether the launch has come to its first measured step.
    """

    def __init__(self, round: str, launches: int, work: Callable[[Turn], Record]) -> None:
        self.round = round
        self.launches = launches
        self.is_taken = False
        self._work = work
        self._mine = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="launch in turn", daemon=True)
        self._record: Record | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._waited_seconds = 0.0
        self._fifo: int | None = None
        self._phases: list[Phase] = []

    def resume(self) -> Record | None:
        """Let the launch run until it waits or ends; its record at the end.

        Raises whatever has ended the launch.
        """
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._mine.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return self._record

    def stop(self) -> None:
        """End the launch without a record, and wait until its processes are gone."""
        self._stopped = True
        if self._thread.ident is not None:
            self._mine.release()
            self._thread.join()

    def clock(self) -> float:
        """Seconds in which this launch ran: differences leave out those in which it waited."""
        return time.monotonic() - self._waited_seconds

    def check(self) -> None:
        """Raises Stopped after `stop`. Called while the launch runs."""
        if self._stopped:
            raise Stopped

    @contextmanager
    def given_to(self, job: Job) -> Iterator[None]:
        """Hold the pipe of a launch, for a job made by `with_turns`. Raises OSError."""
        assert job.turn_path is not None, "the job waits for turns"
        path = Path(job.turn_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        # Open for both: neither this nor the rank's opening waits for the other.
        self._fifo = os.open(path, os.O_RDWR)
        self._phases = job.phases
        try:
            yield
        finally:
            os.close(self._fifo)
            path.unlink(missing_ok=True)

    def options(
        self, options: LaunchOptions, step: Report, reading: Callable[[Report], Report]
    ) -> LaunchOptions:
        """The options of a launch that waits here. reading: reads the machine after a report.

        The machine is read after the wait, so the launch's window begins with its first turn.
        """

        def report(progress: Progress) -> None:
            step(progress)
            if self.comes_after(progress):
                self.wait()

        def on_progress(progress: Progress) -> None:
            reported(progress)
            if self.comes_after(progress):
                self.go()

        reported = reading(report)
        return replace(options, on_progress=on_progress, clock=self.clock, check=self.check)

    def comes_after(self, progress: Progress) -> bool:
        """Whether the step after this one waits for a turn."""
        return self._phases[progress.step + 1 : progress.step + 2] == ["measured"]

    def wait(self) -> None:
        """Hand over to the other launches until the next turn. Raises Stopped."""
        began = time.monotonic()
        self.is_taken = True
        self._back.release()
        self._mine.acquire()
        self._waited_seconds += time.monotonic() - began
        self.check()

    def go(self) -> None:
        """Let the ranks take their measured step."""
        assert self._fifo is not None, "the launch has begun"
        os.write(self._fifo, b".")

    def _run(self) -> None:
        try:
            self._record = self._work(self)
        except BaseException as error:
            self._error = error
        finally:
            self._back.release()


def with_turns(job: Job, turn: Turn) -> Job:
    """The job whose ranks wait for turns.

    All other launches of the round may take their whole time limit while a rank waits.
    """
    return msgspec.structs.replace(
        job,
        turn_path=str(Path(job.output_directory) / FIFO_NAME),
        message_timeout_seconds=job.message_timeout_seconds * turn.launches,
    )


def take_turns(turns: Sequence[Turn]) -> Iterator[tuple[Turn, Record]]:
    """Give each launch its turns until all have ended; the records as they come.

    Forwards, then backwards, so that no launch is always the last.
    """
    running = list(turns)
    while running:
        for turn in list(running):
            record = turn.resume()
            if record is not None:
                running.remove(turn)
                yield turn, record
        running.reverse()


def stop_all(turns: Sequence[Turn]) -> None:
    """End all launches of a round. Further interrupts wait meanwhile."""
    with undisturbed():
        for turn in turns:
            turn.stop()

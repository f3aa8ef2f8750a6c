"""The turns of a launch: its measured steps wait while other launches take theirs."""

from __future__ import annotations

import os

from benchmarks.job import Job
from benchmarks.worker.heartbeat import Heartbeat

WAITING = "waits for its turn"
"""A rank's note before a measured step."""


class Turns:
    """Rank 0 waits for the launcher; the other ranks then wait for rank 0 at the step's barrier."""

    def __init__(self, job: Job, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._pipe: int | None = None
        if job.turn_path is not None and heartbeat.rank == 0:
            self._pipe = os.open(job.turn_path, os.O_RDONLY)

    def wait(self) -> None:
        """Wait for the next turn, without work. Raises BrokenPipeError without a launcher."""
        if self._pipe is None:
            return
        self._heartbeat.note(WAITING)
        if not os.read(self._pipe, 1):
            raise BrokenPipeError("the launcher that gives the turns has ended")
        self._heartbeat.note("")

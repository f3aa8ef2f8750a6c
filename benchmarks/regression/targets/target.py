"""A piece of the suite that is timed, and what a timed process reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

SCHEMA = "sppo-timed/1"

Repetition = Callable[[], object]
"""One repetition of a piece. Its result is that of the work, never None."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A piece that one process times by many repetitions.

    description: one line, with the size. prepare: set-up outside the clock.
    """

    name: str
    description: str
    prepare: Callable[[], AbstractContextManager[Repetition]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A whole job: a command that launches real ranks. Its measured steps are the repetitions.

    arguments: of `sppo-bench`, with one row and one launch, without the folder.
    """

    name: str
    description: str
    arguments: Sequence[str]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one process: what `benchmarks.regression.targets.timed` prints.

    least_seconds, median_seconds: of its repetitions. package: the folder of the `benchmarks` that
    was imported, so a caller knows which source tree was timed.
    """

    schema: str = SCHEMA
    target: str
    least_seconds: float
    median_seconds: float
    repetitions: int
    package: str = ""

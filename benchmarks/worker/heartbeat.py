"""Where each rank of a launch is: one note a rank, in memory that outlives it.

A rank that was killed, or that hangs, says nothing more. So each writes what it does before it does
it, and whoever ends the launch reads that. A note is a copy into mapped memory, about 1 us: no
system call, no flush. It survives the process, and need not survive the machine.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks.job import Phase, Refusal

NOTE_BYTES = 256
"""A note's length on disk, whatever it says; the rest is blanks."""

WAITS = "waits"
"""In the text of a rank that can go on only when another has."""

HUNG_SHARE = 0.25
"""Of the time limit: if nobody moved for so long, whoever does not wait hangs. Else it is slow."""

MOST_NAMED = 4
"""Ranks that one line names; the others are counted."""


def file_name(rank: int) -> str:
    return f"where-{rank}"


class Heartbeat:
    """What a rank does now, for itself and, in its file, for others. Raises OSError."""

    def __init__(self, rank: int, directory: Path) -> None:
        self.rank = rank
        self.limit_in_force = False
        self.refusal: Refusal | None = None
        with (directory / file_name(rank)).open("w+b") as file:
            # Real bytes first: on a full disk a hole would be a SIGBUS at some later note.
            file.write(b" " * NOTE_BYTES)
            file.flush()
            self._room = mmap.mmap(file.fileno(), NOTE_BYTES)
        self.enter("set-up")

    def enter(self, phase: str) -> None:
        """The next phase of the launch begins."""
        self.phase = phase
        self.note("")

    def note(self, doing: str) -> None:
        """What this rank does from now on, in one copy: a reader may come at any time."""
        text = f"{time.time_ns()} {self.phase}\n{doing}"
        self._room[:] = text.encode()[:NOTE_BYTES].ljust(NOTE_BYTES)


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a rank said last: "stage 1, F0.3@1", or nothing but its phase."""

    time_ns: int
    phase: str
    doing: str = ""

    @property
    def waits(self) -> bool:
        return WAITS in self.doing

    def __str__(self) -> str:
        """ "in the accounted step: stage 1, F0.3@1"."""
        step = self.phase in get_args(Phase)
        words = f"in the {self.phase} step" if step else f"during {self.phase}"
        return f"{words}: {self.doing}" if self.doing else words


def read_note(path: Path) -> Note | None:
    """The note in a rank's file; None where there is none, or half of one."""
    try:
        text = path.read_bytes()[:NOTE_BYTES].decode("utf-8", "replace")
    except OSError:
        return None
    head, _, doing = text.partition("\n")
    time_text, _, phase = head.partition(" ")
    if not (time_text.isdecimal() and phase.strip()):
        return None
    return Note(time_ns=int(time_text), phase=phase.strip(), doing=doing.strip())


def read_notes(directory: Path, ranks: int) -> list[Note | None]:
    """Of all ranks, in their order."""
    return [read_note(directory / file_name(rank)) for rank in range(ranks)]


def who_hangs(notes: Sequence[Note | None], now_ns: int, limit_seconds: float) -> str:
    """Why a launch came to no end: who kept the others waiting. Nothing if nobody left a note.

    Where all wait, or none does, none is singled out.
    """
    known = [note for note in notes if note is not None]
    if not known:
        return ""
    idle_seconds = (now_ns - max(note.time_ns for note in known)) / 1e9
    waiting = [rank for rank, note in enumerate(notes) if note is not None and note.waits]
    busy = [rank for rank in range(len(notes)) if rank not in waiting]
    culprits = busy or waiting
    if idle_seconds < HUNG_SHARE * limit_seconds:
        return f"still moving: {_each(culprits, notes)}"
    if not (busy and waiting):
        return f"nobody moved for {idle_seconds:.0f} s: {_each(culprits, notes)}"
    others = [f"rank {rank} {_wait_of(notes[rank])}" for rank in waiting]
    ranks = [f"rank {rank} hung {_where(notes[rank])}" for rank in busy]
    return f"{few(ranks, '; ')} ({few(others, ', ')}; nobody moved for {idle_seconds:.0f} s)"


def few(words: Sequence[str], between: str) -> str:
    """The first of many, and how many more there are."""
    named = list(words[:MOST_NAMED])
    if len(words) > MOST_NAMED:
        named.append(f"{len(words) - MOST_NAMED} more")
    return between.join(named)


def _each(ranks: Sequence[int], notes: Sequence[Note | None]) -> str:
    return few([f"rank {rank} {_where(notes[rank])}" for rank in ranks], "; ")


def _where(note: Note | None) -> str:
    return "before its first note" if note is None else str(note)


def _wait_of(note: Note | None) -> str:
    """ "stage 0, waits for RECV_B0.2@0" -> "waits for RECV_B0.2@0"."""
    assert note is not None
    return note.doing[note.doing.index(WAITS) :]

"""The heartbeat of each rank of a launch: one note a rank, in memory that outlives the process.

A rank that was killed, or that hangs, reports nothing more. So each rank writes its next
instruction before it runs, and the supervisor reads the notes at the end. A note is a copy into
mapped memory, about 1 us, without a system call or a flush.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from benchmarks.job import Phase, Refusal

NOTE_BYTES = 256
"""The length of a note on disk, padded with blanks."""

WAITS = "waits"
"""Part of the note of a rank that waits for another rank."""

STOPPED = "stopped by a signal"
"""Part of the note of a rank that was stopped from outside, as by SIGSTOP."""

HUNG_SHARE = 0.25
"""Share of the time limit. Without a new note for so long, a rank that does not wait hangs."""

MOST_NAMED = 4
"""Ranks that one line names; further ranks are counted."""


def file_name(rank: int) -> str:
    """The file of a rank's note in the launch directory."""
    return f"where-{rank}"


class Heartbeat:
    """The phase and the next instruction of a rank, here and in its file. Raises OSError."""

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
        """Begin the next phase of the launch."""
        self.phase = phase
        self.note("")

    def note(self, doing: str) -> None:
        """Write the next instruction in one copy, because a reader may come at any time."""
        text = f"{time.time_ns()} {self.phase}\n{doing}"
        self._room[:] = text.encode()[:NOTE_BYTES].ljust(NOTE_BYTES)


@dataclass(frozen=True, kw_only=True)
class Note:
    """The last note of a rank: its phase, and an instruction such as "stage 1, F0.3@1"."""

    time_ns: int
    phase: str
    doing: str = ""

    @property
    def waits(self) -> bool:
        """Whether the rank waits for another rank."""
        return WAITS in self.doing

    @property
    def is_stopped(self) -> bool:
        """Whether the rank was stopped from outside."""
        return self.doing.endswith(STOPPED)

    def __str__(self) -> str:
        """ "in the accounted step: stage 1, F0.3@1"."""
        step = self.phase in get_args(Phase)
        words = f"in the {self.phase} step" if step else f"during {self.phase}"
        return f"{words}: {self.doing}" if self.doing else words


def read_note(path: Path) -> Note | None:
    """The note in a rank's file; None where it is missing or incomplete."""
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
    """The notes of all ranks, in rank order."""
    return [read_note(directory / file_name(rank)) for rank in range(ranks)]


def mark_stopped(directory: Path, ranks: Iterable[int]) -> None:
    """Say in the notes of these ranks, which cannot write any, that they were stopped."""
    for rank in ranks:
        path = directory / file_name(rank)
        note = read_note(path)
        if note is not None and not note.is_stopped:
            doing = ", ".join(filter(None, (note.doing, STOPPED)))
            text = f"{note.time_ns} {note.phase}\n{doing}"
            path.write_bytes(text.encode()[:NOTE_BYTES].ljust(NOTE_BYTES))


def hang_reason(notes: Sequence[Note | None], now_ns: int, limit_seconds: float) -> str:
    """The ranks that a launch waited for at its time limit; "" without notes.

    Ranks that were stopped from outside are certain. Else, if all ranks wait, or none does, all are
    named.
    """
    known = [note for note in notes if note is not None]
    if not known:
        return ""
    idle_seconds = (now_ns - max(note.time_ns for note in known)) / 1e9
    stopped = [rank for rank, note in enumerate(notes) if note is not None and note.is_stopped]
    waiting = [
        rank
        for rank, note in enumerate(notes)
        if note is not None and note.waits and rank not in stopped
    ]
    if stopped:
        return _hung(stopped, waiting, notes, idle_seconds)
    busy = [rank for rank in range(len(notes)) if rank not in waiting]
    culprits = busy or waiting
    if idle_seconds < HUNG_SHARE * limit_seconds:
        return f"still moving: {_each(culprits, notes)}"
    if not (busy and waiting):
        return f"no progress for {idle_seconds:.0f} s: {_each(culprits, notes)}"
    return _hung(busy, waiting, notes, idle_seconds)


def _hung(
    ranks: Sequence[int], waiting: Sequence[int], notes: Sequence[Note | None], idle_seconds: float
) -> str:
    peers = few([f"rank {rank} {_wait_of(notes[rank])}" for rank in waiting], ", ")
    hung = [f"rank {rank} hung {_where(notes[rank])}" for rank in ranks]
    idle = f"no progress for {idle_seconds:.0f} s"
    return f"{few(hung, '; ')} ({'; '.join(filter(None, (peers, idle)))})"


def few(words: Sequence[str], between: str) -> str:
    """The first `MOST_NAMED` of the words, and the number of the rest."""
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

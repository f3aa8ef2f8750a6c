"""The files of the history: one line of JSON an entry, only ever appended, under a lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from benchmarks.records.store import results_directory
from benchmarks.regression.history.entry import Entry

PATTERN = "*.jsonl"
"""The files of a folder."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A line that is no entry. It stays in its file."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: not read, kept: {self.reason}"


def default_directory() -> Path:
    """`results/history` of the current folder, else of the checkout, else of the user's data."""
    return results_directory() / "history"


def append(directory: Path, entry: Entry) -> Path | None:
    """Add the entry to the file of its machine; the path, or None if its content is there.

    Other processes wait meanwhile. A torn last line, of a process that was killed, is ended first.
    A write that fails leaves the file as it was. Raises OSError.
    """
    path = directory / f"{entry.machine.id}.jsonl"
    directory.mkdir(parents=True, exist_ok=True)
    with path.open("ab+", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        before = stream.read()
        known = (line for line in _entries(path, before) if isinstance(line, Entry))
        if any(line.content == entry.content for line in known):
            return None
        end = b"\n" if before and not before.endswith(b"\n") else b""
        _write(stream, end + msgspec.json.encode(entry) + b"\n", len(before))
    return path


def _write(stream: BinaryIO, data: bytes, size_before: int) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[stream.write(left) :]
        os.fsync(stream.fileno())
    except OSError:
        os.ftruncate(stream.fileno(), size_before)
        raise


def read(directory: Path) -> tuple[list[Entry], list[Unreadable]]:
    """All entries of a folder by commit and time, and the lines that are none. Raises OSError."""
    return read_files(sorted(directory.glob(PATTERN)))


def read_files(paths: Iterable[Path]) -> tuple[list[Entry], list[Unreadable]]:
    """All entries of these files by commit and time, and the lines that are none. Raises OSError.

    Of two lines of the same measurement the later one counts: a run's folder may have grown.
    """
    entries: dict[tuple[object, ...], Entry] = {}
    unreadable: list[Unreadable] = []
    for path in paths:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            data = stream.read()
        for line in _entries(path, data):
            if isinstance(line, Entry):
                entries[line.identity] = line
            else:
                unreadable.append(line)
    return sorted(entries.values(), key=lambda entry: entry.order), unreadable


def _entries(path: Path, data: bytes) -> Iterator[Entry | Unreadable]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield Unreadable(path=path, line=number, reason=str(error))

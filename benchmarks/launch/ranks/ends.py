"""The ends of a launch's ranks, one JSON line each, in the order in which they came.

The parent of the ranks writes the lines (`agent.py`), so a killed rank has one too.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE_NAME = "ends.jsonl"
"""The file in the launch directory."""

FILE_VARIABLE = "SPPO_SUITE_ENDS"
"""The variable with the path of the file. Without the variable no ends are written."""


class RankEnd(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="rank"):
    """The end of one rank, seen at `time_ns`. code: its exit code, negative for a signal.

    message: the error that torch.distributed.elastic wrote for the rank, if any.
    """

    rank: int
    code: int
    time_ns: int
    message: str = ""


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="stop"):
    """torchrun begins to end all ranks. signal: the one that torchrun itself has got, else 0."""

    time_ns: int
    signal: int = 0


def append(path: Path, event: RankEnd | Stop) -> None:
    """Add one line in one write. Raises OSError."""
    with path.open("ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(event) + b"\n")


def read(directory: Path) -> list[RankEnd | Stop]:
    """The events in their order. A damaged line, as on a full disk, is left out."""
    try:
        return decode((directory / FILE_NAME).read_bytes())
    except OSError:
        return []


def decode(data: bytes) -> list[RankEnd | Stop]:
    """The events of a file's content. A damaged line is left out."""
    events: list[RankEnd | Stop] = []
    for line in data.splitlines():
        try:
            events.append(msgspec.json.decode(line, type=RankEnd | Stop))
        except msgspec.DecodeError:
            continue
    return events

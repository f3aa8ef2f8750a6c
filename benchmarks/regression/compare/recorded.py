"""The files of a comparison: compare.json, and pairs.jsonl with one line a pair as it comes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.records.store import RecordError, read_json, save
from benchmarks.regression.compare.paired import Pair
from benchmarks.regression.compare.verdict import FALSE_CALLS
from benchmarks.regression.targets.target import Measurement

SCHEMA = "sppo-compare/1"
HEADER_NAME = "compare.json"
PAIRS_NAME = "pairs.jsonl"

Kind = Literal["a/a", "a/b"]
"""Both sides BASE, or BASE and HEAD."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared. base, head: names and commits in words. margin: the asked one, a share.

    false_calls: each target's part of the comparison's rate. left_out: targets that BASE lacks, and
    why. lost: targets that HEAD lacks and BASE has, and why.
    """

    schema: str = SCHEMA
    base: str
    head: str
    margin: float
    targets: list[str]
    false_calls: float = FALSE_CALLS
    left_out: dict[str, str] = {}
    lost: dict[str, str] = {}
    environment: dict[str, Any] = {}


class RecordedPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two measurements next to each other. order: which side came first. seconds: of both."""

    target: str
    kind: Kind
    order: Literal["base first", "head first"]
    seconds: float
    base: Measurement
    head: Measurement

    @property
    def pair(self) -> Pair:
        """The least times, which the verdict reads."""
        return Pair(base_seconds=self.base.least_seconds, head_seconds=self.head.least_seconds)


def write_header(directory: Path, header: Header) -> None:
    """Begin a comparison's folder. Raises OSError."""
    save(directory / HEADER_NAME, header)


def append(directory: Path, recorded: RecordedPair) -> None:
    """Add a pair in one write, flushed to the disk. Raises OSError."""
    path = directory / PAIRS_NAME
    with path.open("ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(recorded) + b"\n")
        os.fsync(stream.fileno())


def read(directory: Path) -> tuple[Header, list[RecordedPair]]:
    """A comparison's folder. Raises RecordError with one line.

    A last line without its end, of a command that was killed while it wrote, is left out.
    """
    try:
        path = directory / HEADER_NAME
        header = read_json(path, Header, SCHEMA, "compare anew")
        path = directory / PAIRS_NAME
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        words = f"{path}: {error.strerror}; name a folder of `sppo-bench compare`"
        raise RecordError(words) from None
    lines = text.split(b"\n")[:-1]
    try:
        return header, [msgspec.json.decode(line, type=RecordedPair) for line in lines]
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: {error}; compare anew") from None


def pairs_of(recorded: Sequence[RecordedPair], target: str, kind: Kind) -> list[Pair]:
    """The pairs of one target and kind, in their order."""
    return [each.pair for each in recorded if each.target == target and each.kind == kind]

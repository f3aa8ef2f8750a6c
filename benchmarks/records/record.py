"""One launch of one row, as a versioned JSON file. Every key is explained in `docs/record.md`.

Schema history: sppo-record/1 is the first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.environment import CHECKOUT
from benchmarks.job import Accounted, Enforcement, Memory, Phase, Status, StepReport
from sppo.config.workload import Workload

SCHEMA = "sppo-record/1"
FILE_NAME = "record.json"


class RecordError(ValueError):
    """A record that cannot be read; the message is one line naming the file and the cure."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer step. `seconds` is the slowest rank's; None is a value that is not finite."""

    phase: Phase
    tokens: int
    seconds: float
    loss: float | None
    grad_norm: float | None

    @classmethod
    def of(cls, report: StepReport) -> Step:
        return cls(
            phase=report.phase,
            tokens=report.tokens,
            seconds=report.seconds,
            loss=finite(report.loss),
            grad_norm=finite(report.grad_norm),
        )


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Operations of one optimizer step over all ranks, a multiply and an add being two."""

    dense: int
    attention_causal: int
    attention_full: int
    recompute: int | None = None


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank's device could do at best, and who says so."""

    flops_per_second: float
    source: str
    kind: Literal["datasheet", "measured"]


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tokens come from."""

    description: str
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about one launch; written even when the launch failed.

    Numbers that a failed launch does not have are None, never zero.
    """

    schema: str = SCHEMA
    workload: Workload
    system: str
    row: str
    status: Status
    reason: str = ""
    launch: int
    started: str
    ranks: int
    warmup_steps: int = 0
    steps: list[Step] = []
    tokens_per_step: int
    tokens_per_second_per_rank: float | None = None
    step_seconds_median: float | None = None
    flops: Flops
    mfu_causal: float | None = None
    mfu_full: float | None = None
    hfu: float | None = None
    peak: Peak | None = None
    memory: list[Memory] = []
    device_memory_bytes: int | None = None
    enforcement: Enforcement | None = None
    settings: dict[str, Any] = {}
    settings_text: str = ""
    tuned: bool = True
    grid: str = ""
    text: Text | None = None
    accounted: list[Accounted | None] = []
    bubble_share: float | None = None
    plan: dict[str, Any] | None = None
    environment: dict[str, Any] = {}


def finite(value: float) -> float | None:
    """The value, or None for NaN and the infinities, which JSON cannot say."""
    return value if abs(value) < float("inf") else None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a temporary file beside it, flushed, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json(value: object) -> bytes:
    """Indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write(record: Record, path: Path) -> None:
    """Write the record atomically, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, to_json(record))


class _Header(msgspec.Struct):
    schema: str


def read(path: Path) -> Record:
    """The record of that file. Raises RecordError with one line naming the cure."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; name a folder of `sppo-bench run`") from None
    check_schema(path, data, SCHEMA)
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.ValidationError as error:
        raise RecordError(f"{path}: {error}; the file is damaged, delete it") from None


def check_schema(path: Path, data: bytes, expected: str) -> None:
    """Raise RecordError unless the JSON object says that it is of the expected schema."""
    try:
        schema = msgspec.json.decode(data, type=_Header).schema
    except msgspec.DecodeError as error:
        raise RecordError(f"{path}: not a {expected} file ({error}); delete it") from None
    if schema == expected:
        return
    name, _, number = schema.partition("/")
    ours = expected.partition("/")
    if name != ours[0] or not number.isdecimal():
        raise RecordError(f"{path}: schema {schema!r}, expected {expected!r}; not a file of this")
    age, cure = (
        ("newer", "update this program")
        if int(number) > int(ours[2])
        else (
            "older",
            "run the workload again",
        )
    )
    raise RecordError(f"{path}: schema {schema!r} is {age} than {expected!r}; {cure}")


def read_all(directory: Path) -> list[Record]:
    """The records of a run folder, by start time. Raises RecordError; an empty folder is one."""
    if not directory.is_dir():
        raise RecordError(f"no folder {directory}; name one that `sppo-bench run` has made")
    paths = sorted(directory.glob(f"*/{FILE_NAME}"))
    if not paths:
        raise RecordError(f"{directory}: no */{FILE_NAME} in it; name a folder of results/runs/")
    return sorted((read(path) for path in paths), key=lambda record: record.started)


def results_directory() -> Path:
    """`results/` of the folder we stand in, else of the checkout that this module lies in."""
    here = Path.cwd() / "results"
    checkout = CHECKOUT / "results"
    return checkout if checkout.is_dir() and not here.is_dir() else here


def published_directory() -> Path:
    """What is committed, wherever we stand; without a checkout, of the folder we stand in."""
    checkout = CHECKOUT / "results"
    return (checkout if checkout.is_dir() else Path.cwd() / "results") / "published"

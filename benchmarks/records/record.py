"""One launch of one row, as a versioned JSON file. Every key is explained in `docs/record.md`.

Schema history: sppo-record/1 is the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.job import Accounted, Enforcement, Memory, Phase, Status, StepReport
from benchmarks.records.store import RecordError, check_schema, finite, to_json, write_bytes
from sppo.config.workload import Workload

SCHEMA = "sppo-record/1"
FILE_NAME = "record.json"


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


def write(record: Record, path: Path) -> None:
    """Write the record atomically, making its folder where needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, to_json(record))


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


def read_all(directory: Path) -> list[Record]:
    """The records of a run folder, by start time. Raises RecordError; an empty folder is one."""
    if not directory.is_dir():
        raise RecordError(f"no folder {directory}; name one that `sppo-bench run` has made")
    paths = sorted(directory.glob(f"*/{FILE_NAME}"))
    if not paths:
        raise RecordError(f"{directory}: no */{FILE_NAME} in it; name a folder of results/runs/")
    return sorted((read(path) for path in paths), key=lambda record: record.started)

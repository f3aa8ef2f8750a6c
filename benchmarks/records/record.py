"""One launch of one row, as a versioned JSON file. Every key is explained in `docs/record.md`.

Schema history: sppo-record/1 is the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from benchmarks.job import Accounted, Enforcement, Kernels, Memory, Phase, Status, StepReport
from benchmarks.records.machine import MachineState
from benchmarks.records.store import RecordError, finite, read_json, save
from sppo.config.workload import Workload

SCHEMA = "sppo-record/1"
FILE_NAME = "record.json"

Item = TypeVar("Item")
Key = TypeVar("Key")


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer step, `seconds` of the slowest rank. None stands for a value not finite."""

    phase: Phase
    tokens: int
    seconds: float
    loss: float | None
    grad_norm: float | None

    @classmethod
    def of(cls, report: StepReport) -> StepRecord:
        """The step as one rank reports it."""
        values = msgspec.structs.asdict(report)
        values |= {"loss": finite(report.loss), "grad_norm": finite(report.grad_norm)}
        return cls(**values)


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Operations of one optimizer step over all ranks. A multiply-add counts as two."""

    dense: int
    attention_causal: int
    attention_full: int
    recompute: int | None = None

    @property
    def causal(self) -> int:
        """Model FLOPs with the causal half of attention."""
        return self.dense + self.attention_causal

    @property
    def full(self) -> int:
        """Model FLOPs with attention over all pairs."""
        return self.dense + self.attention_full

    @property
    def executed(self) -> int | None:
        """Model FLOPs (causal) and recomputed ones; None where the latter are unknown."""
        return None if self.recompute is None else self.causal + self.recompute


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The peak rate of one rank's device, in FLOP/s, and its source."""

    flops_per_second: float
    source: str
    kind: Literal["datasheet", "measured"]


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """The source of the tokens. `sha256` covers the bytes that were read.

    file: the name as given. tokenizer: None for files of token ids. tokens_read: distinct tokens;
    a shorter text is repeated. documents_crossed: passages from a document to the next among them,
    None where the format marks none. All are None in records of before these keys.
    """

    description: str
    sha256: str
    file: str | None = None
    tokenizer: str | None = None
    tokenizer_sha256: str | None = None
    tokens_read: int | None = None
    documents_crossed: int | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about one launch. A failed launch has a record too.

    A number that a failed launch does not have is None, never zero. round: of launches that took
    their measured steps in turn, the same name; None for a launch whose steps followed each other.
    """

    schema: str = SCHEMA
    workload: Workload
    system: str
    row: str
    status: Status
    reason: str = ""
    launch: int
    round: str | None = None
    started: str
    launch_seconds: float | None = None
    ranks: int
    warmup_steps: int = 0
    steps: list[StepRecord] = []
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
    kernels: Kernels | None = None
    plan: dict[str, Any] | None = None
    environment: dict[str, Any] = {}
    machine_state: MachineState | None = None

    @property
    def is_reference(self) -> bool:
        """Whether the launch is that of the plain torch reference."""
        return self.system == "reference"


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items by key, in the order of the first of each key."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def grouped(records: Sequence[Record], key: Literal["row", "system"]) -> dict[str, list[Record]]:
    """Records by row or by system, in the order of the first launch, without the reference."""
    return group_by((record for record in records if not record.is_reference), attrgetter(key))


def write(record: Record, path: Path) -> None:
    """Write the record atomically, making its folder where needed."""
    save(path, record)


def read(path: Path) -> Record:
    """The record in a file. Raises RecordError with one line that names the cure."""
    try:
        return read_json(path, Record, SCHEMA, "the file is damaged, delete it")
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror}; name a folder of `sppo-bench run`") from None


def read_all(directory: Path) -> list[Record]:
    """The records of a run folder, by start time. Raises RecordError, also for an empty folder."""
    if not directory.is_dir():
        raise RecordError(f"no folder {directory}; name one that `sppo-bench run` has made")
    paths = sorted(directory.glob(f"*/{FILE_NAME}"))
    if not paths:
        raise RecordError(f"{directory}: no */{FILE_NAME} in it; name a folder of results/runs/")
    return sorted((read(path) for path in paths), key=lambda record: record.started)

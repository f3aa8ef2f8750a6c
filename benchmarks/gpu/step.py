"""A step of the suite, and its file: written at once, whatever comes after."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from benchmarks.records import store

if TYPE_CHECKING:
    from benchmarks.gpu.place import Place

SCHEMA = "sppo-gpu-step/1"
LABEL = "measured"

StepStatus = Literal["ok", "failed", "timeout", "unavailable"]
"""ok: the step has its values. unavailable: the step says what this machine lacks."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step by its name, what it shows, its seconds of ten minutes, and its action.

    action: "module:function" in `benchmarks.gpu.steps`; it takes a Place, and returns its values.
    """

    name: str
    shows: str
    seconds: float
    action: str

    def run(self, place: Place) -> dict[str, Any]:
        """The values. Errors of the action pass on."""
        module, _, function = self.action.partition(":")
        values: dict[str, Any] = getattr(import_module(f"benchmarks.gpu.steps.{module}"), function)(
            place
        )
        return values


class Incomplete(RuntimeError):
    """A step that did not come to its end, with the values that it has."""

    def __init__(self, reason: str, values: dict[str, Any]) -> None:
        super().__init__(reason)
        self.values = values


class StepFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a step found. `values` are the step's own; `reason` is one line where it is not ok."""

    schema: str = SCHEMA
    label: str = LABEL
    step: str
    status: StepStatus
    reason: str = ""
    machine: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str] = {}
    started: str
    seconds: float
    limit_seconds: float
    values: dict[str, Any] = {}


def path_of(directory: Path, number: int, step: Step) -> Path:
    """The file of the step with this number, from 1."""
    return directory / f"{number:02d}-{step.name}.json"


def read(path: Path) -> StepFile:
    """A step's file. Raises OSError or RecordError."""
    return store.read_json(path, StepFile, SCHEMA, "delete it, and resume")

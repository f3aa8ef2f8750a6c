"""`sppo-logged.json`: which results a wandb run has. So nothing is logged twice."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.records import store

SCHEMA = "sppo-logged/1"
NAME = "sppo-logged.json"


class SentFile(msgspec.Struct, frozen=True, kw_only=True):
    """Names of the logged results by run and destination. It lies beside the runs of wandb."""

    schema: str = SCHEMA
    runs: dict[str, list[str]] = {}


@dataclass(kw_only=True)
class Sent:
    """The results that a wandb run has at its destination. folder: of wandb's runs."""

    folder: Path
    run_id: str
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = list(_read(self._path).get(self._run, ()))

    @property
    def _path(self) -> Path:
        return self.folder / NAME

    @property
    def _run(self) -> str:
        return f"{self.run_id} {destination()}"

    def add(self, name: str) -> None:
        """Note a result as logged. Raises OSError."""
        self.names.append(name)
        runs = {**_read(self._path), self._run: self.names}
        _write(self._path, store.to_json(SentFile(runs=runs)))


def destination() -> str:
    """Where runs go: "offline", else server, entity and project."""
    if (os.environ.get("WANDB_MODE") or "offline") == "offline":
        return "offline"
    names = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")
    return " ".join(os.environ.get(name) or "-" for name in names)


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or nothing. It is not flushed: a search notes a thousand results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, list[str]]:
    """The file's runs; none without a readable file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SentFile).runs
    except (OSError, msgspec.DecodeError):
        return {}

"""`sppo-logged.json`: which results a wandb run has. So nothing is logged twice."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.records import store

SCHEMA = "sppo-logged/1"
NAME = "sppo-logged.json"

END = "end"
"""Notes that a run has its summary."""

OFFLINE = "offline"


class SentRun(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a run: name -> when it was logged, in seconds of Unix time.

    closed: whether wandb has ended the run, and has written all. False while it is logged, and
    after a kill. end: a digest of the summary and exit code. summary: names in the summary.
    """

    results: dict[str, float] = {}
    closed: bool = True
    end: str = ""
    summary: list[str] = []


class SentFile(msgspec.Struct, frozen=True, kw_only=True):
    """The runs by id and destination. The file lies beside the runs of wandb."""

    schema: str = SCHEMA
    runs: dict[str, SentRun] = {}


@dataclass(kw_only=True)
class Sent:
    """The results that a wandb run has at its destination. folder: of wandb's runs.

    wandb writes to disk every few seconds. So after a kill of an offline run only the results from
    before the last write count; of another run the server knows, and `is_certain` is False.
    """

    folder: Path
    run_id: str
    results: dict[str, float] = field(default_factory=dict)
    is_certain: bool = True
    end: str = ""
    summary: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        before = _read(self._path).get(self._run, SentRun())
        self.results = dict(before.results)
        self.end, self.summary = before.end, list(before.summary)
        if before.closed:
            return
        if destination() == OFFLINE:
            written = self._last_write()
            self.results = {name: at for name, at in self.results.items() if at <= written}
        else:
            self.is_certain = False

    def __contains__(self, name: str) -> bool:
        return name in self.results

    @property
    def steps(self) -> int:
        """The number of logged steps."""
        return len(self.results) - (END in self.results)

    def trust_server(self, steps: int) -> None:
        """After a kill: only the first results, as many as the server has steps, are there."""
        if not self.is_certain:
            names = [name for name in self.results if name != END][:steps]
            self.results = {name: self.results[name] for name in names}
            self.is_certain = True

    def add(self, name: str) -> None:
        """Note a result as logged. Raises OSError."""
        self.results[name] = time.time()
        self._save(closed=False)

    def has_end(self, digest: str) -> bool:
        """Whether the run has this summary and exit code."""
        return END in self.results and self.end == digest

    def add_end(self, digest: str, summary: list[str]) -> None:
        """Note the summary as written. summary: its names. Raises OSError."""
        self.end, self.summary = digest, summary
        self.add(END)

    def reopen(self) -> None:
        """Forget the end: a run that goes on gets another."""
        self.results.pop(END, None)

    def close(self) -> None:
        """Note that all is written. Raises OSError."""
        self._save(closed=True)

    def _save(self, *, closed: bool) -> None:
        run = SentRun(results=self.results, closed=closed, end=self.end, summary=self.summary)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            data = store.to_json(SentFile(runs={**_read(self._path), self._run: run}))
            _write(self._path, data)

    @property
    def _path(self) -> Path:
        return self.folder / NAME

    @property
    def _run(self) -> str:
        return f"{self.run_id} {destination()}"

    def _last_write(self) -> float:
        """When wandb has last written the newest file of the run; 0 without a file."""
        files = self.folder.glob(f"offline-run-*-{self.run_id}/run-{self.run_id}.wandb")
        return max((path.stat().st_mtime for path in files), default=0.0)


def destination() -> str:
    """Where runs go: "offline", else server, entity and project."""
    if (os.environ.get("WANDB_MODE") or OFFLINE) == OFFLINE:
        return OFFLINE
    names = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")
    return " ".join(os.environ.get(name) or "-" for name in names)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Other commands that log to the folder wait. The system frees the lock of a killed process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    """Write the whole file or nothing. It is not flushed: a search notes a thousand results."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, SentRun]:
    """The file's runs; none without a readable file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=SentFile).runs
    except (OSError, msgspec.DecodeError):
        return {}

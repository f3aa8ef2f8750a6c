"""A module in place of wandb that keeps what is logged, and wandb's own reader of its files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@dataclass
class FakeRun:
    """A run: its arguments, its steps, its summary and its end."""

    arguments: dict[str, Any]
    starting_step: int = 0
    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def log(self, values: dict[str, Any], step: int, commit: bool) -> None:
        assert commit, "else the step waits for the next one"
        assert step not in self.steps
        assert step >= self.starting_step, "a server drops it"
        self.steps[step] = values

    def define_metric(self, name: str, summary: str) -> None:
        assert (name.endswith("/*"), summary) == (True, "none")

    def finish(self, exit_code: int) -> None:
        assert self.exit_code is None, "finished twice"
        self.exit_code = exit_code


@contextmanager
def fake_wandb(starting_step: int = 0) -> Iterator[list[FakeRun]]:
    """The runs that begin inside. starting_step: what a server has of each."""
    runs: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        runs.append(FakeRun(arguments, starting_step))
        return runs[-1]

    module = SimpleNamespace(
        Error=RuntimeError,
        Settings=dict,
        Table=lambda columns, data: {"columns": columns, "data": data},
        Image=str,
        init=init,
        teardown=lambda: None,
    )
    with pytest.MonkeyPatch.context() as patch:  # patch.dict would drop what is imported inside
        patch.setitem(sys.modules, "wandb", module)
        yield runs


@dataclass(frozen=True)
class ReadRun:
    """An offline file as wandb reads it: the head of the run, its steps, its summary, its end."""

    run_id: str
    tags: list[str]
    config: dict[str, Any]
    steps: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int


def read_runs(folder: Path) -> list[ReadRun]:
    """The offline runs below a folder, the oldest first, by `wandb leet inspect`."""
    paths = sorted(folder.rglob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    return [_read(path) for path in paths]


def _read(path: Path) -> ReadRun:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: dict[str, list[Any]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        values.setdefault(line["type"], []).append(line[line["type"]])
    (head,) = values["run"]
    summary: dict[str, Any] = {}
    for change in values["summary"]:
        summary |= change.get("update", {})
    return ReadRun(
        run_id=head["run_id"],
        tags=head["tags"],
        config=head["config"]["update"],
        steps=[step["item"] for step in values.get("history", [])],
        summary=summary,
        exit_code=values["exit"][0].get("exit_code", 0),
    )

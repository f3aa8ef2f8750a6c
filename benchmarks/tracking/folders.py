"""What a folder holds that wandb can show: runs, studies, saved results, the paper's pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.emulation import search as emulation_search
from benchmarks.launch import run_file
from benchmarks.launch.gate import exit_code
from benchmarks.launch.run_file import RunFile
from benchmarks.paper import verdicts
from benchmarks.paper.items import files
from benchmarks.records import record as records
from benchmarks.records.store import RecordError
from benchmarks.studies import ablation, longest_result, sweep
from benchmarks.tracking import launches, pages, saved, studies
from benchmarks.tracking.session import Session
from benchmarks.tracking.tracked_run import TrackedRun

DEPTH = 4
"""Folders below the named one that are looked at."""

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError)
"""What a damaged or foreign file can raise."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Something of ours. kind: in words. log: logs it, and gives its runs; raises UNREADABLE.

    log is None where wandb has no form for it.
    """

    path: Path
    kind: str
    log: Callable[[Session], Sequence[TrackedRun]] | None


def find(path: Path, depth: int = DEPTH) -> Iterator[Found]:
    """All of ours in a folder, or in a file. Raises OSError."""
    if path.is_file():
        yield from _file(path)
    elif (path / run_file.NAME).is_file():
        yield Found(path=path, kind=_kind(path), log=partial(_log_folder, path))
    elif any(path.glob(f"*/{records.FILE_NAME}")):
        yield Found(path=path, kind="run", log=partial(_log_launches, path))
    else:
        for file in sorted(path.glob("*.json")):
            yield from _file(file)
        for folder in sorted(path.iterdir()) if depth else ():
            if folder.is_dir() and not folder.is_symlink() and folder.name != "wandb":
                yield from find(folder, depth - 1)


def _kind(directory: Path) -> str:
    """The command of a folder; "run" where its plan cannot be read, which `_log_folder` says."""
    try:
        return studies.kind_of(run_file.read(directory))
    except ValueError:
        return "run"


def _file(path: Path) -> Iterator[Found]:
    """A saved result; nothing for a file of others."""
    schema = saved.schema_of(path) if path.suffix == ".json" else ""
    if schema == saved.PAGES:
        yield Found(path=path.parent, kind="paper", log=partial(_log_pages, path))
    elif schema in saved.LOGGERS:
        kind, _ = saved.LOGGERS[schema]
        yield Found(path=path, kind=kind, log=partial(_log_file, path, schema))
    elif schema.startswith(saved.OWN):
        yield Found(path=path, kind=schema, log=None)


def _log_file(path: Path, schema: str, session: Session) -> Sequence[TrackedRun]:
    kind, log = saved.LOGGERS[schema]
    data = path.read_bytes()
    run = TrackedRun(session, saved.heading(path, kind, data), path.parent)
    log(run, data)
    return [run]


def _log_pages(index: Path, session: Session) -> Sequence[TrackedRun]:
    values: dict[str, Any] = msgspec.json.decode(saved.read(index, files.SCHEMA))
    keys = {*(item["item"] for item in values["items"]), *values["not_made"]}
    heading = pages.heading(values["environment"], keys, index.parent)
    run = TrackedRun(session, heading, index.parent)
    saved.log_pages(run, index.parent, values)
    return [run]


def _log_launches(directory: Path, session: Session) -> Sequence[TrackedRun]:
    done = records.read_all(directory)
    return [launches.log_launch(record, directory, session) for record in done]


def _log_folder(directory: Path, session: Session) -> Sequence[TrackedRun]:
    """The folder of a command: its launches, or its study."""
    plan = run_file.read(directory)
    kind = studies.kind_of(plan)
    if kind == "run":
        return _log_launches(directory, session)
    if not plan.finished:
        line = run_file.go_on_command(plan.command, plan.arguments, directory)
        raise RecordError(f"the study is not at its end; go on with: {line}")
    run = TrackedRun(session, studies.heading(plan, directory), directory)
    _log_study(kind, plan, directory, run)
    return [run]


def _log_study(kind: str, plan: RunFile, directory: Path, run: TrackedRun) -> None:
    if kind == "sweep":
        saved.log_sweep(run, saved.read(directory / "sweep.json", sweep.SCHEMA))
    elif kind == "longest":
        saved.log_longest(run, saved.read(directory / "longest.json", longest_result.SCHEMA))
    elif kind == "emulate":
        saved.log_search(run, saved.read(directory / "search.json", emulation_search.SCHEMA))
    elif kind == "paper":
        paths = sorted(directory.glob("fig*.json"))
        data = [saved.read(path, verdicts.SCHEMA) for path in paths]
        figures = [msgspec.json.decode(each, type=verdicts.PaperPoints) for each in data]
        saved.log_figures(run, figures)
    elif kind in ("tune", "limit", "ablation"):
        _log_launched_study(kind, directory, run)
    else:
        raise RecordError(f"{directory}: wandb has no form for `{plan.command}`")


def _log_launched_study(kind: str, directory: Path, run: TrackedRun) -> None:
    """A study whose results are launches of its own folder."""
    done = records.read_all(directory)
    series = studies.by_row if kind == "ablation" else studies.by_system
    result = b""
    if kind == "ablation":
        result = saved.read(directory / "ablation.json", ablation.SCHEMA)
    feed = studies.LaunchFeed(run=run, series=series)
    for record in done:
        feed(record)
    if kind == "ablation":
        saved.log_ablation(run, result)
    elif kind == "limit":
        studies.end_limit(run, done, exit_code(done))
    else:
        studies.end_tune(run, done, exit_code(done))

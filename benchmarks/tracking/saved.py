"""The saved results of studies, read by their schema and logged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.emulation import result as emulation_result
from benchmarks.emulation import search as emulation_search
from benchmarks.emulation.result import Emulation
from benchmarks.emulation.search import SearchResult
from benchmarks.launch.gate import UNWANTED
from benchmarks.paper import verdicts
from benchmarks.paper.items import files
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict
from benchmarks.records.store import RecordError, check_schema
from benchmarks.rows import tuning
from benchmarks.rows.tuning import Tuning
from benchmarks.studies import ablation, limit, longest_result, sweep
from benchmarks.studies.ablation import PolicyResult
from benchmarks.studies.limit import LimitTrial
from benchmarks.studies.longest_result import LongestSequences
from benchmarks.studies.sweep import Quantity, SweepPoint
from benchmarks.tracking import pages, searches, studies
from benchmarks.tracking.tracked_run import Heading, TrackedRun

OWN = "sppo-"
"""The beginning of every schema of ours."""


class SavedSweep(msgspec.Struct, frozen=True, kw_only=True):
    """The values of sweep.json."""

    quantity: Quantity
    values: list[SweepPoint]


class SavedAblation(msgspec.Struct, frozen=True, kw_only=True):
    """The policies of ablation.json."""

    policies: list[PolicyResult]


class SavedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """The trials of a limit, also of a file from before `versions`."""

    trials: list[LimitTrial]


def log_sweep(run: TrackedRun, data: bytes) -> None:
    """sweep.json."""
    saved = msgspec.json.decode(data, type=SavedSweep)
    for point in saved.values:
        studies.log_point(run, saved.quantity, point)
    statuses = {row.status for point in saved.values for row in point.rows}
    studies.end_sweep(run, saved.quantity, saved.values, int(bool(statuses & UNWANTED)))


def log_longest(run: TrackedRun, data: bytes) -> None:
    """longest.json."""
    saved = msgspec.json.decode(data, type=LongestSequences)
    feed = studies.TrialFeed(run=run)
    for trial in saved.trials:
        feed(trial)
    broken = any(trial.status in UNWANTED for trial in saved.trials)
    studies.end_longest(run, saved.rows, int(broken))


def log_limit(run: TrackedRun, data: bytes) -> None:
    """A published limit. Its trials have no names, so only their table is logged."""
    studies.end_limit(run, msgspec.json.decode(data, type=SavedLimit).trials, 0)


def log_ablation(run: TrackedRun, data: bytes) -> None:
    """ablation.json, without the launches."""
    saved = msgspec.json.decode(data, type=SavedAblation)
    broken = any(result.status in UNWANTED for result in saved.policies)
    studies.end_ablation(run, saved.policies, int(broken))


def log_tuning(run: TrackedRun, data: bytes) -> None:
    """A file of measured grids."""
    studies.log_grids(run, msgspec.json.decode(data, type=Tuning))


def log_search(run: TrackedRun, data: bytes) -> None:
    """search.json."""
    saved = msgspec.json.decode(data, type=SearchResult)
    is_answered = saved.found is not None and not saved.unanswered
    searches.end_search(run, saved, 0 if is_answered else 1)


def log_emulation(run: TrackedRun, data: bytes) -> None:
    """emulation.json."""
    searches.end_emulation(run, msgspec.json.decode(data, type=Emulation))


def log_points(run: TrackedRun, data: bytes) -> None:
    """The paper's points of one figure."""
    saved = msgspec.json.decode(data, type=PaperPoints)
    log_figures(run, [saved])


def log_figures(run: TrackedRun, figures: list[PaperPoints]) -> None:
    """The paper's points of several figures."""
    for figure in figures:
        rows: list[Verdict | LongestVerdict] = [*figure.verdicts, *figure.longest]
        for row in rows:
            searches.log_row(run, figure.figure or "10", row)
    searches.end_figures(run, figures, int(any(figure.is_broken for figure in figures)))


def log_pages(run: TrackedRun, folder: Path, values: Mapping[str, Any]) -> None:
    """The paper's pages in a folder. values: of index.json."""
    for item in values["items"]:
        pages.log_item(run, folder, item["item"])
    pages.end(run, values)


Logger = Callable[[TrackedRun, bytes], None]

LOGGERS: Mapping[str, tuple[str, Logger]] = {
    sweep.SCHEMA: ("sweep", log_sweep),
    longest_result.SCHEMA: ("longest", log_longest),
    limit.SCHEMA: ("limit", log_limit),
    ablation.SCHEMA: ("ablation", log_ablation),
    tuning.SCHEMA: ("tune", log_tuning),
    emulation_search.SCHEMA: ("search", log_search),
    emulation_result.SCHEMA: ("emulation", log_emulation),
    verdicts.SCHEMA: ("paper points", log_points),
}
"""Schema -> kind, and the function that logs a file."""

PAGES = files.SCHEMA
"""The schema of the paper's index.json, which is logged with the files beside it."""


class _Head(msgspec.Struct):
    schema: str = ""


def schema_of(path: Path) -> str:
    """The schema of a JSON file; "" for a file of others. Raises OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Head).schema
    except msgspec.DecodeError:
        return ""


def read(path: Path, schema: str) -> bytes:
    """A file of this schema. Raises OSError, or RecordError with the cure."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecordError(
            f"{path}: not there; let the command come to its end with --resume"
        ) from None
    check_schema(path, data, schema)
    return data


def heading(path: Path, kind: str, data: bytes) -> Heading:
    """The head of a file's run: its id is that of its bytes."""
    values = msgspec.json.decode(data)
    keys = ("workload", "machine", "versions", "commit", "dirty", "date", "environment", "settings")
    return Heading(
        run_id=hashlib.sha256(data).hexdigest()[:16],
        name=f"{kind} {path.stem}",
        job_type=kind,
        tags=(kind, values.get("label", studies.MEASURED)),
        config={key: values[key] for key in keys if key in values},
    )

"""The measured grids of the tuned baselines, committed, and the choice of a row's settings.

One file per workload and limit, `results/published/tuning/<workload>-<limit>.json`: every point
that was tried, with its time and peak or the way it failed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.job import Status
from benchmarks.records import metrics, store
from benchmarks.records.provenance import machine
from benchmarks.records.record import Record
from sppo.config.sizes import format_bytes, limit_label
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from benchmarks.rows.row import Configuration

SCHEMA = "sppo-tuning/1"

FINALISTS = 4
"""Points of each system that are launched again, interleaved, after the whole grid."""

LAUNCHES = 3
"""Launches of a finalist in all."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. Seconds: median over its launches; peak: the largest of any rank, tracked."""

    settings: dict[str, Any]
    settings_text: str
    status: Status
    reason: str = ""
    launches: int = 1
    step_seconds_median: float | None = None
    tracked_peak_bytes: int | None = None


class SystemTuning(msgspec.Struct, frozen=True, kw_only=True):
    """The whole grid of one system, on one machine."""

    date: str
    machine: str
    commit: str
    dirty: bool
    versions: dict[str, str]
    points: list[Point]


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = SCHEMA
    workload: str
    device_memory_bytes: int | None
    systems: dict[str, SystemTuning] = {}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a tuned row, None where nothing was tuned, and where they come from."""

    settings: dict[str, Any] | None
    source: str


def path_of(workload: str, device_memory_bytes: int | None) -> Path:
    """Where a grid is saved."""
    name = f"{workload}-{limit_label(device_memory_bytes)}.json"
    return store.published_directory() / "tuning" / name


def load(path: Path) -> Tuning | None:
    """The file, or None where there is none. Raises RecordError on a damaged one."""
    path = store.readable(path)
    if not path.is_file():
        return None
    data = path.read_bytes()
    store.check_schema(path, data, SCHEMA)
    try:
        return msgspec.json.decode(data, type=Tuning)
    except msgspec.ValidationError as error:
        raise store.RecordError(f"{path}: {error}; tune again with --tune") from None


def fastest(points: Sequence[Point], within_bytes: int | None = None) -> Point | None:
    """The fastest point that ran, and whose tracked peak is within the limit if there is one.

    Of the most often launched: a single lucky launch must not beat finalists launched again.
    """
    able = [
        point
        for point in points
        if point.status == "ok"
        and point.step_seconds_median is not None
        and (
            within_bytes is None
            or (point.tracked_peak_bytes is not None and point.tracked_peak_bytes <= within_bytes)
        )
    ]
    most = max((point.launches for point in able), default=0)
    finalists_only = [point for point in able if point.launches == most]
    return min(finalists_only, key=lambda point: point.step_seconds_median or 0.0, default=None)


def choose(system: str, workload: Workload) -> Choice:
    """The committed winner for this workload and limit, else the best guess, and its reason."""
    limit = workload.device_memory_bytes
    exact = path_of(workload.name, limit)
    unlimited = path_of(workload.name, None)
    if winner := _winner(exact, system, None, "fastest"):
        return winner
    if limit is not None:
        within = f"fastest without a limit whose peak fits {format_bytes(limit)}"
        if winner := _winner(unlimited, system, limit, within):
            return winner
    tuned = any(
        (tuning := load(path)) is not None and system in tuning.systems
        for path in (exact, unlimited)
    )
    why = "no tuned point fits this limit" if tuned else f"not tuned: no {system} in {exact.name}"
    return Choice(settings=None, source=f"{why}; the last of the adapter's grid stands in")


def _winner(path: Path, system: str, within_bytes: int | None, how: str) -> Choice | None:
    tuning = load(path)
    if tuning is None or system not in tuning.systems:
        return None
    grid = tuning.systems[system]
    point = fastest(grid.points, within_bytes)
    if point is None:
        return None
    source = (
        f"{how} of {len(grid.points)} points in tuning/{path.name} "
        f"({grid.machine}, commit {grid.commit[:9]}, {grid.date})"
    )
    return Choice(settings=point.settings, source=source)


def point_of(launches: Sequence[Record]) -> Point:
    """What the launches of one setting say about it; one that is not ok speaks for all."""
    worst = next((record for record in launches if record.status != "ok"), launches[-1])
    peaks = [
        memory.tracked_peak_bytes
        for record in launches
        for memory in record.memory
        if memory.tracked_peak_bytes is not None
    ]
    seconds = [second for record in launches for second in metrics.measured_seconds(record.steps)]
    return Point(
        settings=worst.settings,
        settings_text=worst.settings_text,
        status=worst.status,
        reason=worst.reason,
        launches=len(launches),
        step_seconds_median=statistics.median(seconds) if worst.status == "ok" else None,
        tracked_peak_bytes=max(peaks, default=None),
    )


def finalists(
    assignments: Sequence[Configuration], done: Sequence[Record]
) -> Sequence[Configuration]:
    """The FINALISTS fastest points of each system: noise must not choose among them."""
    fastest_rows: set[str] = set()
    for system in {assignment.row.system for assignment in assignments}:
        timed = sorted(
            (record.step_seconds_median, record.row)
            for record in done
            if record.system == system and record.step_seconds_median is not None
        )
        fastest_rows |= {row for _, row in timed[:FINALISTS]}
    return [assignment for assignment in assignments if assignment.row.label in fastest_rows]


def of_records(done: Sequence[Record]) -> SystemTuning:
    """The whole grid of one system, from the records of its launches."""
    rows: dict[str, list[Record]] = {}
    for record in done:
        rows.setdefault(record.row, []).append(record)
    environment = done[0].environment
    return SystemTuning(
        date=done[0].started[:10],
        machine=machine(done[0]),
        commit=environment.get("commit") or "unknown",
        dirty=bool(environment.get("dirty")),
        versions=environment.get("versions", {}),
        points=[point_of(launches) for launches in rows.values()],
    )


def save(workload: Workload, systems: Mapping[str, SystemTuning]) -> Path:
    """Merge whole grids into the file of this workload and limit; other systems' stay."""
    path = path_of(workload.name, workload.device_memory_bytes)
    before = load(path)
    merged = dict(before.systems) if before is not None else {}
    merged.update(systems)
    tuning = Tuning(
        workload=workload.name,
        device_memory_bytes=workload.device_memory_bytes,
        systems=dict(sorted(merged.items())),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, store.to_json(tuning))
    return path

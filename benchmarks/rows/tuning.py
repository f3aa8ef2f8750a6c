"""The committed grids of the tuned baselines, and the choice of a tuned row's settings.

One file per workload and limit, `results/published/tuning/<workload>-<limit>.json`, has every
point that was tried, with its time and peak, or with the status of its failure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Status
from benchmarks.records import metrics, store
from benchmarks.records.provenance import origin
from benchmarks.records.record import Record, grouped
from benchmarks.rows.row import Configuration, settings_key
from sppo.config.sizes import format_bytes, limit_label
from sppo.config.workload import Workload

SCHEMA = "sppo-tuning/1"

FINALISTS = 4
"""Points of each system that are launched again, interleaved, after the whole grid."""

LAUNCHES = 3
"""Launches of a finalist in all."""


class GridPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: the median step in seconds over its launches, the tracked peak of any rank."""

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
    points: list[GridPoint]

    @property
    def origin(self) -> str:
        """Machine, commit and date of the measurement."""
        return f"{self.machine}, commit {self.commit[:9]}, {self.date}"


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The file of one workload and limit: the grid of each system that was tuned."""

    schema: str = SCHEMA
    workload: str
    device_memory_bytes: int | None
    systems: dict[str, SystemTuning] = {}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a tuned row with their source; None where no tuned point fits."""

    settings: dict[str, Any] | None
    source: str


def path_of(workload: str, device_memory_bytes: int | None) -> Path:
    """The file of the grids of a workload under a limit (None: no limit)."""
    name = f"{workload}-{limit_label(device_memory_bytes)}.json"
    return store.published_directory() / "tuning" / name


def load(path: Path) -> Tuning | None:
    """The file's content, None without a file. Raises RecordError on a damaged file."""
    path = store.readable(path)
    if not path.is_file():
        return None
    return store.read_json(path, Tuning, SCHEMA, "tune again with --tune")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One committed grid, by `settings_key`; empty without a file. `source` is file and origin."""

    points: Mapping[str, GridPoint]
    source: str

    def seconds(self, configuration: Configuration) -> float | None:
        """Median step in seconds; None where the point is not ok or was not tried."""
        point = self.points.get(configuration.key)
        return point.step_seconds_median if point is not None and point.status == "ok" else None

    def peak_bytes(self, configuration: Configuration) -> int | None:
        """Tracked peak of the largest rank, in bytes; None where it was not counted."""
        point = self.points.get(configuration.key)
        return None if point is None else point.tracked_peak_bytes


def grid(system: str, workload: Workload, device_memory_bytes: int | None) -> Grid:
    """The committed grid of a system under a limit. Raises RecordError on a damaged file."""
    path = path_of(workload.name, device_memory_bytes)
    tuning = load(path)
    if tuning is None or system not in tuning.systems:
        return Grid(points={}, source="")
    committed = tuning.systems[system]
    return Grid(
        points={settings_key(point.settings): point for point in committed.points},
        source=f"tuning/{path.name} ({committed.origin})",
    )


def fit_under(system: str, workload: Workload, limit_bytes: int) -> set[str]:
    """Keys of the settings that ran under a committed limit of at most `limit_bytes`.

    Settings that fit a small device also fit a larger one. Raises RecordError on a damaged file.
    """
    keys: set[str] = set()
    folder = path_of(workload.name, None).parent
    for path in store.readable_files(folder, f"{workload.name}-*.json"):
        loaded = load(path)
        if loaded is None or loaded.workload != workload.name or system not in loaded.systems:
            continue
        if loaded.device_memory_bytes is None or loaded.device_memory_bytes > limit_bytes:
            continue
        points = loaded.systems[system].points
        keys |= {settings_key(point.settings) for point in points if point.status == "ok"}
    return keys


def leanest_first(configurations: Sequence[Configuration], free: Grid) -> list[Configuration]:
    """By the known peak without a limit, then those with unknown peak, most recompute first.

    A library's own grid begins with the least recompute.
    """

    def order(numbered: tuple[int, Configuration]) -> tuple[bool, int]:
        number, configuration = numbered
        peak = free.peak_bytes(configuration)
        return (True, -number) if peak is None else (False, peak)

    return [configuration for _, configuration in sorted(enumerate(configurations), key=order)]


def fastest(points: Sequence[GridPoint], within_bytes: int | None = None) -> GridPoint | None:
    """The fastest point that ran with a tracked peak of at most `within_bytes` (None: any).

    Only the points with the most launches count: a single launch may be fast by chance.
    """
    fitting = [
        point
        for point in points
        if point.status == "ok"
        and point.step_seconds_median is not None
        and (within_bytes is None or (point.tracked_peak_bytes or math.inf) <= within_bytes)
    ]
    most = max((point.launches for point in fitting), default=0)
    finalists_only = [point for point in fitting if point.launches == most]
    return min(finalists_only, key=lambda point: point.step_seconds_median or 0.0, default=None)


def choose(system: str, workload: Workload) -> Choice:
    """The committed winner for this workload and limit, or no settings and the reason.

    Without a fitting grid under the limit, the grid without a limit counts. Raises RecordError on
    a damaged file.
    """
    limit_bytes = workload.device_memory_bytes
    ways: list[tuple[int | None, int | None, str]] = [(limit_bytes, None, "fastest")]
    if limit_bytes is not None:
        how = f"fastest without a limit whose peak fits {format_bytes(limit_bytes)}"
        ways.append((None, limit_bytes, how))
    reason = f"not tuned: no {system} in {path_of(workload.name, limit_bytes).name}"
    for grid_limit_bytes, within_bytes, how in ways:
        known = grid(system, workload, grid_limit_bytes)
        point = fastest(list(known.points.values()), within_bytes)
        if point is not None:
            source = f"{how} of {len(known.points)} points in {known.source}"
            return Choice(settings=point.settings, source=source)
        if known.points:
            reason = "no tuned point fits this limit"
    return Choice(settings=None, source=f"{reason}; the last point of the adapter's grid is used")


def point_of(launches: Sequence[Record]) -> GridPoint:
    """The launches of one setting as a point; a launch that is not ok decides the status."""
    worst = next((record for record in launches if record.status != "ok"), launches[-1])
    seconds = [second for record in launches for second in metrics.measured_seconds(record.steps)]
    return msgspec.structs.replace(
        msgspec.convert(worst, GridPoint, from_attributes=True),
        launches=len(launches),
        step_seconds_median=statistics.median(seconds) if worst.status == "ok" else None,
        tracked_peak_bytes=metrics.largest_bytes(launches, "tracked_peak_bytes"),
    )


def finalists(
    configurations: Sequence[Configuration], done: Sequence[Record]
) -> Sequence[Configuration]:
    """The FINALISTS fastest points of each system, to be launched again."""
    timed = [record for record in done if record.step_seconds_median is not None]
    timed.sort(key=lambda record: (record.step_seconds_median or 0.0, record.row))
    by_system = grouped(timed, "system").values()
    fastest_rows = {record.row for records in by_system for record in records[:FINALISTS]}
    return [point for point in configurations if point.row.label in fastest_rows]


def of_records(done: Sequence[Record]) -> SystemTuning:
    """The whole grid of one system, from the records of its launches."""
    points = [point_of(launches) for launches in grouped(done, "row").values()]
    return SystemTuning(points=points, **origin(done[0]))


def save(workload: Workload, systems: Mapping[str, SystemTuning]) -> Path:
    """Put whole grids into the file of this workload and limit; the path.

    Grids of further systems stay in the file.
    """
    path = path_of(workload.name, workload.device_memory_bytes)
    before = load(path)
    earlier = {} if before is None else before.systems
    tuning = Tuning(
        workload=workload.name,
        device_memory_bytes=workload.device_memory_bytes,
        systems=dict(sorted({**earlier, **systems}.items())),
    )
    return store.save(path, tuning)

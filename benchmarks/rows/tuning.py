"""Files of measured grids: every point that was tried, with its time and peak, or its failure.

One file per workload and limit: `results/published/tuning/<workload>-<limit>.json` is to commit,
`results/tuning/<workload>-<limit>.json` is for later runs on this machine.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Status
from benchmarks.records import machine, metrics, store, timing
from benchmarks.records.provenance import origin
from benchmarks.records.record import Record, grouped
from benchmarks.rows.row import Configuration
from sppo.config.sizes import limit_label
from sppo.config.workload import Workload

SCHEMA = "sppo-tuning/1"

FINALISTS = 4
"""Fastest points of each system that are launched again, interleaved, after the whole grid."""

MOST_TAKEN = 0.9
"""The most of a launch's cores that others are taken to have had."""

LAUNCHES = 3
"""Launches of a finalist in all."""


class GridPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: the median step in seconds of its launches, the tracked peak of any rank."""

    settings: dict[str, Any]
    settings_text: str
    status: Status
    reason: str = ""
    launches: int = 1
    step_seconds_median: float | None = None
    tracked_peak_bytes: int | None = None


class SystemTuning(msgspec.Struct, frozen=True, kw_only=True):
    """The whole grid of one system, on one machine.

    workload: what was measured; sequence_tokens, sequences_per_step: the same of it. None in older
    files.
    """

    date: str
    machine: str
    commit: str
    dirty: bool
    versions: dict[str, str]
    points: list[GridPoint]
    sequence_tokens: int | None = None
    sequences_per_step: int | None = None
    workload: Workload | None = None

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


def path_of(workload: str, device_memory_bytes: int | None) -> Path:
    """The committed file of the grids of a workload under a limit (None: no limit)."""
    return store.published_directory() / "tuning" / _name(workload, device_memory_bytes)


def own_path_of(workload: str, device_memory_bytes: int | None) -> Path:
    """The file of the grids that were measured on this machine. No commit has it."""
    folder = store.published_directory().parent / "tuning"
    return folder / _name(workload, device_memory_bytes)


def _name(workload: str, device_memory_bytes: int | None) -> str:
    return f"{workload}-{limit_label(device_memory_bytes)}.json"


def load(path: Path) -> Tuning | None:
    """The file's content, None without a file. Raises RecordError on a damaged file."""
    path = store.readable(path)
    if not path.is_file():
        return None
    return store.read_json(path, Tuning, SCHEMA, "tune again with --tune")


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


def point_of(launches: Sequence[Record], fastest_kernel: Mapping[int, float]) -> GridPoint:
    """The launches of one setting as a point; a launch that is not ok decides the status.

    A disturbed launch (docs/timing.md) gives no time where another launch was not disturbed.
    fastest_kernel: seconds of the run's fastest kernel reading, by number of threads.
    """
    worst = next((record for record in launches if record.status != "ok"), launches[-1])
    quiet = [record for record in launches if not timing.disturbance(record, fastest_kernel)]
    timed = quiet or launches
    seconds = [second for record in timed for second in metrics.measured_seconds(record.steps)]
    return msgspec.structs.replace(
        msgspec.convert(worst, GridPoint, from_attributes=True),
        launches=len(launches),
        step_seconds_median=statistics.median(seconds) if worst.status == "ok" else None,
        tracked_peak_bytes=metrics.largest_bytes(launches, "tracked_peak_bytes"),
    )


def finalists(
    configurations: Sequence[Configuration], done: Sequence[Record]
) -> Sequence[Configuration]:
    """The points of each system to be launched again.

    They are the FINALISTS fastest as measured, and the FINALISTS fastest without what others took
    from their launch.
    """
    kernel = machine.fastest_kernel([record.machine_state for record in done])
    timed = [record for record in done if record.step_seconds_median is not None]
    rows = set()
    for records in grouped(timed, "system").values():
        for seconds in (_step_seconds, partial(_undisturbed_seconds, fastest_kernel=kernel)):
            ranked = sorted((seconds(record), record.row) for record in records)
            rows |= {row for _, row in ranked[:FINALISTS]}
    return [point for point in configurations if point.row.label in rows]


def _step_seconds(record: Record) -> float:
    return record.step_seconds_median or 0.0


def _undisturbed_seconds(record: Record, fastest_kernel: Mapping[int, float]) -> float:
    """The median step in seconds, less what others took and by as much as the kernel was slow."""
    state, seconds = record.machine_state, _step_seconds(record)
    if state is None:
        return seconds
    fastest = fastest_kernel.get(state.wanted_cores)
    slower = max(state.kernel_seconds) / fastest if fastest and state.kernel_seconds else 1.0
    return seconds * (1 - min(MOST_TAKEN, state.taken_share)) / slower


def of_records(done: Sequence[Record]) -> SystemTuning:
    """The whole grid of one system, from the records of its launches."""
    kernel = machine.fastest_kernel([record.machine_state for record in done])
    points = [point_of(launches, kernel) for launches in grouped(done, "row").values()]
    workload = done[0].workload
    return SystemTuning(
        points=points,
        sequence_tokens=workload.sequence_tokens,
        sequences_per_step=workload.sequences_per_step,
        workload=workload,
        **origin(done[0]),
    )


def save(workload: Workload, systems: Mapping[str, SystemTuning]) -> Path:
    """Put whole grids into the file of this workload and limit; the path of the file to commit.

    The file for later runs on this machine gets them too. Grids of further systems stay.
    """
    place = workload.name, workload.device_memory_bytes
    for target in (own_path_of(*place), path_of(*place)):
        before = load(target)
        earlier = {} if before is None else before.systems
        tuning = Tuning(
            workload=workload.name,
            device_memory_bytes=workload.device_memory_bytes,
            systems=dict(sorted({**earlier, **systems}.items())),
        )
        store.save(target, tuning)
    return path_of(*place)

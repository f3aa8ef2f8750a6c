"""What the committed grids say of single settings: the order in which a search tries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.records import store
from benchmarks.rows import tuning
from benchmarks.rows.row import Configuration
from benchmarks.rows.tuning import Point, SystemTuning
from sppo.config.workload import Workload


def key(settings: Mapping[str, Any]) -> str:
    """Settings as text that is equal where they are, whoever wrote them."""
    return msgspec.json.encode(settings, order="sorted").decode()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One committed grid by settings, empty where there is none. `source` names file and origin."""

    points: Mapping[str, Point]
    source: str

    def seconds(self, assignment: Configuration) -> float | None:
        """Its median step there, in seconds; None where it was not ok or not tried."""
        point = self.points.get(key(assignment.settings))
        return point.step_seconds_median if point is not None and point.status == "ok" else None

    def peak_bytes(self, assignment: Configuration) -> int | None:
        """Its tracked peak there, largest rank, in bytes; None where nobody counted."""
        point = self.points.get(key(assignment.settings))
        return None if point is None else point.tracked_peak_bytes

    def has(self, assignment: Configuration) -> bool:
        return key(assignment.settings) in self.points


def grid(system: str, workload: Workload, device_memory_bytes: int | None) -> Grid:
    """The committed grid of a system under a limit. Raises RecordError on a damaged file."""
    path = tuning.path_of(workload.name, device_memory_bytes)
    loaded = tuning.load(path)
    if loaded is None or system not in loaded.systems:
        return Grid(points={}, source="")
    found = loaded.systems[system]
    return Grid(
        points={key(point.settings): point for point in found.points},
        source=f"tuning/{path.name} ({_origin(found)})",
    )


def fit_under(system: str, workload: Workload, limit_bytes: int) -> set[str]:
    """Settings, as `key` writes them, that ran under a committed limit no looser than this one.

    What fits a tighter device fits a looser one. Raises RecordError on a damaged file.
    """
    keys: set[str] = set()
    folder = tuning.path_of(workload.name, None).parent
    for path in store.readable_files(folder, f"{workload.name}-*.json"):
        loaded = tuning.load(path)
        if loaded is None or loaded.workload != workload.name or system not in loaded.systems:
            continue
        if loaded.device_memory_bytes is None or loaded.device_memory_bytes > limit_bytes:
            continue
        points = loaded.systems[system].points
        keys |= {key(point.settings) for point in points if point.status == "ok"}
    return keys


def _origin(found: SystemTuning) -> str:
    return f"{found.machine}, commit {found.commit[:9]}, {found.date}"


def leanest_first(assignments: Sequence[Configuration], free: Grid) -> list[Configuration]:
    """By their known peak without a limit; those without one come last, most recompute first.

    A library's own grid begins with the least recompute.
    """

    def order(numbered: tuple[int, Configuration]) -> tuple[bool, int]:
        number, assignment = numbered
        peak = free.peak_bytes(assignment)
        return (True, -number) if peak is None else (False, peak)

    return [assignment for _, assignment in sorted(enumerate(assignments), key=order)]

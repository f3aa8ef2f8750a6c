"""The committed grids by settings: the order in which a search tries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records import store
from benchmarks.rows import tuning
from benchmarks.rows.row import Configuration, settings_key
from benchmarks.rows.tuning import GridPoint
from sppo.config.workload import Workload


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
    path = tuning.path_of(workload.name, device_memory_bytes)
    committed = tuning.load_system(path, system)
    if committed is None:
        return Grid(points={}, source="")
    return Grid(
        points={settings_key(point.settings): point for point in committed.points},
        source=f"tuning/{path.name} ({committed.origin})",
    )


def fit_under(system: str, workload: Workload, limit_bytes: int) -> set[str]:
    """Keys of the settings that ran under a committed limit of at most `limit_bytes`.

    Settings that fit a small device also fit a larger one. Raises RecordError on a damaged file.
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

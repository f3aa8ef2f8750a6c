"""The known grids of a system, and the choice of a row's settings from them.

A grid that was measured on this machine comes before the committed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from baselines import registry
from baselines.protocol import measured_grid
from benchmarks.environment import CHECKOUT, available_cores, cpu_model, git_state, gpu_names
from benchmarks.records import store
from benchmarks.rows import emulated_choices
from benchmarks.rows.row import Configuration, settings_key
from benchmarks.rows.tuning import (
    GridPoint,
    SystemTuning,
    fastest,
    load,
    own_path_of,
    path_of,
)
from benchmarks.rows.versions import other_libraries
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a tuned row with their source; None where no tuned point fits.

    none_fits: points are known, and none of them fits. emulated: the source is an emulation.
    """

    settings: dict[str, Any] | None
    source: str
    none_fits: bool = False
    emulated: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One known grid, by `settings_key`; empty without a file. `source`: its origin in words.

    step: tokens of a sequence and sequences a step; None in older files.
    """

    points: Mapping[str, GridPoint]
    source: str
    step: tuple[int | None, int | None] = (None, None)

    def has_step_of(self, workload: Workload) -> bool:
        """Whether the workload has the measured step, as far as the file says."""
        asked = workload.sequence_tokens, workload.sequences_per_step
        pairs = zip(self.step, asked, strict=True)
        return all(known in (None, value) for known, value in pairs)

    def seconds(self, configuration: Configuration) -> float | None:
        """Median step in seconds; None where the point is not ok or was not tried."""
        point = self.points.get(configuration.key)
        return point.step_seconds_median if point is not None and point.status == "ok" else None

    def peak_bytes(self, configuration: Configuration) -> int | None:
        """Tracked peak of the largest rank, in bytes; None where it was not counted."""
        point = self.points.get(configuration.key)
        return None if point is None else point.tracked_peak_bytes


def grid(system: str, workload: Workload, device_memory_bytes: int | None) -> Grid:
    """The grid of a system under a limit: this machine's, else the committed one.

    Raises RecordError on a damaged file.
    """
    own = own_grid(system, workload, device_memory_bytes)
    return own if own.points else committed_grid(system, workload, device_memory_bytes)


def committed_grid(system: str, workload: Workload, device_memory_bytes: int | None) -> Grid:
    """The committed grid of a system under a limit. Raises RecordError on a damaged file."""
    path = path_of(workload.name, device_memory_bytes)
    measured = _grid_in(path, system, workload)
    if measured is None:
        return NO_GRID
    words = [f"the committed grid of {measured.origin} (tuning/{path.name})"]
    return _grid(measured, [*words, other_libraries(system, measured.versions)])


def own_grid(system: str, workload: Workload, device_memory_bytes: int | None) -> Grid:
    """The grid that `--tune` has measured on this machine. Raises RecordError on a damaged file."""
    measured = _grid_in(own_path_of(workload.name, device_memory_bytes), system, workload)
    if measured is None or measured.machine != machine_here(workload):
        return NO_GRID
    words = f"the grid measured on this machine, {measured.date}"
    return _grid(measured, [words, stale_words(system, measured)])


NO_GRID = Grid(points={}, source="")


def _grid(measured: SystemTuning, words: Sequence[str]) -> Grid:
    return Grid(
        points={settings_key(point.settings): point for point in measured.points},
        source="; ".join(filter(None, words)),
        step=(measured.sequence_tokens, measured.sequences_per_step),
    )


def _grid_in(path: Path, system: str, workload: Workload) -> SystemTuning | None:
    """The grid of a system in a file; None where it is of another model, length or cluster.

    A workload file may change under the same name.
    """
    tuning = load(path)
    measured = None if tuning is None else tuning.systems.get(system)
    if measured is None or measured.workload is None:
        return measured

    def work(each: Workload) -> tuple[Any, ...]:
        return each.model, each.dtype, each.sequence_tokens, each.cluster

    return measured if work(measured.workload) == work(workload) else None


def measured_plan(system: str, workload: Workload) -> Choice:
    """The fastest plan that `--tune` has measured on this machine for exactly this workload.

    No settings without any. Raises RecordError on a damaged file.
    """
    limit_bytes = workload.device_memory_bytes
    measured = _grid_in(own_path_of(workload.name, limit_bytes), system, workload)
    asked = workload.sequence_tokens, workload.sequences_per_step
    if measured is None or (measured.sequence_tokens, measured.sequences_per_step) != asked:
        return Choice(settings=None, source="")
    known = own_grid(system, workload, limit_bytes)
    point = fastest(list(known.points.values()))
    if point is None:
        return Choice(settings=None, source="")
    source = f"fastest of {len(known.points)} plans, from {known.source}"
    return Choice(settings=point.settings, source=source)


def fit_under(system: str, workload: Workload, limit_bytes: int) -> set[str]:
    """Keys of the settings that ran under a known limit of at most `limit_bytes`.

    Settings that fit a small device also fit a larger one. Raises RecordError on a damaged file.
    """
    return {
        settings_key(point.settings)
        for limit in _limits_up_to(system, workload, limit_bytes)
        for known in (
            own_grid(system, workload, limit),
            committed_grid(system, workload, limit),
        )
        for point in known.points.values()
        if point.status == "ok"
    }


def _limits_up_to(system: str, workload: Workload, limit_bytes: int) -> list[int]:
    """The limits of known grids of at most so many bytes, the largest first."""
    limits = set()
    pattern = f"{workload.name}-*.json"
    committed = store.readable_files(path_of(workload.name, None).parent, pattern)
    for path in (*committed, *own_path_of(workload.name, None).parent.glob(pattern)):
        loaded = load(path)
        if loaded is None or loaded.workload != workload.name or system not in loaded.systems:
            continue
        limit = loaded.device_memory_bytes
        if limit is not None and limit <= limit_bytes:
            limits.add(limit)
    return sorted(limits, reverse=True)


def leanest_first(configurations: Sequence[Configuration], free: Grid) -> list[Configuration]:
    """By the known peak without a limit, then those with unknown peak, most recompute first.

    A library's own grid begins with the least recompute.
    """

    def order(numbered: tuple[int, Configuration]) -> tuple[bool, int]:
        number, configuration = numbered
        peak = free.peak_bytes(configuration)
        return (True, -number) if peak is None else (False, peak)

    return [configuration for _, configuration in sorted(enumerate(configurations), key=order)]


def choose(system: str, workload: Workload) -> Choice:
    """The fastest known settings for this workload and limit, or none and the reason.

    A grid of this machine comes before a committed one. Without a fitting grid under the limit, the
    grid without a limit counts, then a grid under a tighter limit. Without any grid a committed
    emulation counts. Raises RecordError on a damaged file.
    """
    limit_bytes = workload.device_memory_bytes
    none_fits = False
    for known_grid in (own_grid, committed_grid):
        for grid_limit_bytes, within_bytes, how in _ways(system, workload):
            known = known_grid(system, workload, grid_limit_bytes)
            if not known.has_step_of(workload):
                continue
            point = fastest(list(known.points.values()), within_bytes)
            if point is not None:
                points = _points_words(system, workload, known)
                source = f"{how} of {points}, from {known.source}"
                return Choice(settings=point.settings, source=source)
            none_fits = none_fits or bool(known.points)
    if not none_fits:
        emulated = emulated_choices.choose(system, workload)
        if emulated is not None:
            settings, source = emulated
            return Choice(settings=settings, source=source, emulated=True)
    file_name = path_of(workload.name, limit_bytes).name
    source = NONE_FITS if none_fits else f"not tuned: no {system} in {file_name}; {TRIED}"
    return Choice(settings=None, source=source, none_fits=none_fits)


NONE_FITS = "no tuned point fits this limit; the last point of the adapter's grid is used"
TRIED = "points of the adapter's grid are tried, from the first by halves towards the last"


def _points_words(system: str, workload: Workload, known: Grid) -> str:
    """ "24 points", or "24 points (12 of today's 36)" where the grid of today has others too."""
    grid_points = measured_grid(registry.load(system), workload)
    today = {settings_key(msgspec.to_builtins(settings)) for settings in grid_points}
    measured = len(today & known.points.keys())
    share = "" if measured == len(today) else f" ({measured} of today's {len(today)})"
    return f"{len(known.points)} points{share}"


def _ways(system: str, workload: Workload) -> Iterator[tuple[int | None, int | None, str]]:
    """(Limit of a grid, most bytes of a peak there, in words), the best first."""
    limit_bytes = workload.device_memory_bytes
    yield limit_bytes, None, "fastest"
    if limit_bytes is None:
        return
    yield None, limit_bytes, f"fastest without a limit whose peak fits {format_bytes(limit_bytes)}"
    for tighter in _limits_up_to(system, workload, limit_bytes):
        if tighter < limit_bytes:
            yield tighter, None, f"fastest under a tighter limit, {format_bytes(tighter)},"


def machine_here(workload: Workload) -> str:
    """This machine as a record names it (`benchmarks.records.provenance.machine`)."""
    if workload.cluster.device == "cpu":
        return f"{cpu_model() or 'an unknown machine'}, {available_cores()} cores"
    names = gpu_names() or ["an unknown machine"]
    return f"{workload.cluster.ranks} x {names[0]}"


def stale_words(system: str, measured: SystemTuning) -> str:
    """What has changed since a grid was measured on this machine: libraries, or the commit."""
    words = other_libraries(system, measured.versions)
    if words:
        return words
    commit, _ = git_state(CHECKOUT)
    if commit is None or commit == measured.commit:
        return ""
    return f"stale: commit {measured.commit[:9]}, here {commit[:9]}"

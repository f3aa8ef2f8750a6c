"""The settings of a library that a sweep tries at one value, in order, and those that fit.

Where a known grid has times (at the workload's own sequences per step), the order is by time and
the first point that fits is taken. Elsewhere a few points are measured: the known winners, then the
point of least recomputation of each layout, then the next of each layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.job import Status
from benchmarks.records.record import group_by
from benchmarks.rows import known_grids
from benchmarks.rows.known_grids import Grid
from benchmarks.rows.row import Configuration, settings_key
from sppo.config.workload import Workload

TRIES_PER_POINT = 4
"""Launches only to check the fit, per wanted point."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Settings in the order in which they are tried.

    `proven` are keys of settings that need no launch to check the fit: they ran under this limit or
    a tighter one, or there is no limit. `timed`: the order is by known times, so the first
    candidate that fits is the fastest known. `peaks_bytes`: known peaks by the key of the settings.
    """

    ordered: Sequence[Configuration]
    proven: frozenset[str] = frozenset()
    timed: bool = False
    peaks_bytes: Mapping[str, int] = field(default_factory=dict)


def candidates(
    grid: Sequence[Configuration],
    here: Grid,
    free: Grid,
    *,
    limit_bytes: int | None,
    own: bool,
    proven: Collection[str] = (),
) -> Candidates:
    """Order a library's grid. `here` and `free`: the known grids at this limit and without one.

    own: the value has the workload's own sequences per step, so the known times hold. proven: keys
    of settings that ran under this limit or a tighter one, with as many sequences.
    """
    able = [point for point in grid if point.status is None]
    fast = _by_time(able, here)
    if own and fast:
        keys = frozenset(point.key for point in fast)
        how = f"fastest{_share(able, here)}"
        return Candidates(ordered=_sourced(fast, how, here), proven=keys, timed=True)
    fitting = [point for point in able if _may_fit(point, free, limit_bytes)]
    leanest = known_grids.leanest_first(able, free)[:1]
    if own and free.points:
        how = f"fastest{_share(able, free)} without a limit whose peak there fits"
        timed = _unique([*_by_time(fitting, free), *_of_keys(able, proven), *leanest])
        ordered = _sourced(timed, how, free)
        return Candidates(ordered=ordered, proven=frozenset(proven), timed=True)
    winners = [*_by_time(fitting, here)[:1], *_by_time(fitting, free)[:1]]
    ordered = _unique([*winners, *_by_layout(fitting, free), *_of_keys(able, proven), *leanest])
    keys = frozenset(point.key for point in ordered)
    return Candidates(
        ordered=_sourced(ordered, "one of a few points of its grid, measured", None),
        proven=keys if limit_bytes is None else keys & frozenset(proven),
    )


def _by_time(points: Sequence[Configuration], grid: Grid) -> list[Configuration]:
    timed = [point for point in points if grid.seconds(point)]
    return sorted(timed, key=lambda point: grid.seconds(point) or 0.0)


def _share(points: Sequence[Configuration], grid: Grid) -> str:
    """How many of today's points a known grid has, where others were never measured."""
    known = len(_of_keys(points, grid.points.keys()))
    return "" if known == len(points) else f" of {known} of today's {len(points)} points"


def _of_keys(points: Sequence[Configuration], keys: Collection[str]) -> list[Configuration]:
    return [point for point in points if point.key in keys]


def _may_fit(point: Configuration, free: Grid, limit_bytes: int | None) -> bool:
    """Whether the known peak with one sequence fits. Several sequences in a step need no less."""
    peak = free.peak_bytes(point)
    return limit_bytes is None or peak is None or peak <= limit_bytes


def _by_layout(points: Sequence[Configuration], free: Grid) -> list[Configuration]:
    """The first point of every layout, then the second of every layout, and so on.

    Layouts without a committed point (replicas need several sequences) come first. A library's
    grid begins with the least recomputation. Model chunks are layouts of their own: full
    recomputation with many chunks can be faster than less recomputation with one.
    """

    def layout(point: Configuration) -> str:
        degrees = ("_parallel", "_pipeline")
        return settings_key({k: v for k, v in point.settings.items() if k.endswith(degrees)})

    layouts = group_by(points, layout)
    groups = sorted(layouts.values(), key=lambda group: any(p.key in free.points for p in group))
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return [point for point in rounds if point is not None]


def _unique(points: Sequence[Configuration]) -> list[Configuration]:
    return list({point.key: point for point in points}.values())


def _sourced(points: Sequence[Configuration], how: str, grid: Grid | None) -> list[Configuration]:
    """The points with their source, before the remark of the adapter."""
    source = how if grid is None else f"{how}, from {grid.source}"
    return [
        replace(point, grid="; ".join(text for text in (source, point.grid) if text))
        for point in points
    ]


Try = Callable[[Configuration], Status]
"""One launch up to the accounted step, under the limit; its status."""


def fitting(candidates: Candidates, wanted: int, attempt: Try) -> list[Configuration]:
    """The first `wanted` candidates that fit, checked by launches where the fit is not proven.

    After TRIES_PER_POINT launches for each wanted point, one more: of the candidate with the least
    known peak. If none fits, the last candidate that was tried, whose failure is then the result.
    Empty without candidates.
    """
    chosen: list[Configuration] = []
    tried: list[Configuration] = []
    unproven = [point for point in candidates.ordered if point.key not in candidates.proven]
    last = _leanest(unproven[TRIES_PER_POINT * wanted :], candidates.peaks_bytes)
    for point in candidates.ordered:
        if len(chosen) == wanted:
            break
        if point.key in candidates.proven:
            chosen.append(point)
            continue
        if len(tried) >= TRIES_PER_POINT * wanted and point is not last:
            continue
        status = attempt(point)
        tried.append(point)
        if status == "ok":
            chosen.append(_confirmed(point, len(tried) - len(chosen) - 1))
    return chosen or tried[-1:]


def _leanest(
    points: Sequence[Configuration], peaks_bytes: Mapping[str, int]
) -> Configuration | None:
    """The point of the least known peak; the last one where no peak is known."""
    known = [point for point in points if point.key in peaks_bytes]
    if not known:
        return points[-1] if points else None
    return min(known, key=lambda point: peaks_bytes[point.key])


def _confirmed(point: Configuration, failed: int) -> Configuration:
    words = f"{point.grid}; confirmed by an enforced launch"
    if failed > 0:
        words += f", after {failed} that did not fit"
    return replace(point, grid=words)


def of_system(
    system: str,
    workload: Workload,
    grid: Sequence[Configuration],
    own_sequences: int,
    proven: Collection[str] = (),
) -> Candidates:
    """The candidates of a system at this value. Raises RecordError on a damaged tuning file."""
    limit_bytes = workload.device_memory_bytes
    own = workload.sequences_per_step == own_sequences
    if own and limit_bytes is not None:
        proven = {*proven, *known_grids.fit_under(system, workload, limit_bytes)}
    here = known_grids.grid(system, workload, limit_bytes)
    free = known_grids.grid(system, workload, None)
    chosen = candidates(grid, here, free, limit_bytes=limit_bytes, own=own, proven=proven)
    points = {**here.points, **free.points}
    peaks = {key: point.tracked_peak_bytes for key, point in points.items()}
    known = {key: peak for key, peak in peaks.items() if peak is not None}
    return replace(chosen, peaks_bytes=known)

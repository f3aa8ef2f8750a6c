"""Which settings of a library a sweep tries at one value, in which order, and which of them fit.

Where the committed grid knows the times (the workload's own sequences per step), its order is by
time and the first that fits is taken. Elsewhere a few points are taken to be measured: the
committed winners, then each layout's point of least recomputation, then its next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from benchmarks.job import Status
from benchmarks.rows import committed_grids
from benchmarks.rows.committed_grids import Grid
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload

TRIES_PER_POINT = 4
"""Launches for fitting alone, per point that is wanted."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Settings in the order in which they are tried; `proven` need no launch to know that they fit:
    they ran under this limit or a tighter one, or there is none.

    `timed`: the order is that of known times, so the first that fits is the fastest known.
    """

    ordered: Sequence[Configuration]
    proven: frozenset[str] = frozenset()
    timed: bool = False


def candidates(
    grid: Sequence[Configuration],
    here: Grid,
    free: Grid,
    *,
    limit_bytes: int | None,
    own: bool,
    proven: Collection[str] = (),
) -> Candidates:
    """Order a library's grid. `here` and `free`: the committed grids at this limit and without one.

    own: the value has the workload's own sequences per step, so that the known times hold. proven:
    settings that ran under this limit or a tighter one, with as many sequences.
    """
    able = [assignment for assignment in grid if assignment.status is None]
    fast = _by_time(able, here)
    if own and fast:
        ran = frozenset(committed_grids.key(assignment.settings) for assignment in fast)
        return Candidates(ordered=_sourced(fast, "fastest", here), proven=ran, timed=True)
    fitting = [a for a in able if _may_fit(a, free, limit_bytes)]
    leanest = committed_grids.leanest_first(able, free)[:1]
    if own and free.points:
        how = "fastest without a limit whose peak there fits"
        ordered = _unique([*_by_time(fitting, free), *leanest])
        return Candidates(
            ordered=_sourced(ordered, how, free), proven=frozenset(proven), timed=True
        )
    winners = [*_by_time(fitting, here)[:1], *_by_time(fitting, free)[:1]]
    ordered = _unique([*winners, *_by_layout(fitting, free), *leanest])
    return Candidates(
        ordered=_sourced(ordered, "one of a few points of its grid, measured", None),
        proven=frozenset(
            key
            for key in (committed_grids.key(assignment.settings) for assignment in ordered)
            if limit_bytes is None or key in proven
        ),
    )


def _by_time(assignments: Sequence[Configuration], grid: Grid) -> list[Configuration]:
    timed = [
        (seconds, number) for number, a in enumerate(assignments) if (seconds := grid.seconds(a))
    ]
    return [assignments[number] for _, number in sorted(timed)]


def _may_fit(assignment: Configuration, free: Grid, limit_bytes: int | None) -> bool:
    """Not ruled out by its peak with one sequence: several in a step need no less."""
    peak = free.peak_bytes(assignment)
    return limit_bytes is None or peak is None or peak <= limit_bytes


def _by_layout(assignments: Sequence[Configuration], free: Grid) -> list[Configuration]:
    """The first point of every layout, then the second of every one, ...

    Layouts that the committed grid does not have (replicas need several sequences) come first.
    A library's grid begins with the least recomputation.
    """
    layouts: dict[str, list[Configuration]] = {}
    for assignment in assignments:
        degrees = {k: v for k, v in assignment.settings.items() if k.endswith("_parallel")}
        layouts.setdefault(committed_grids.key(degrees), []).append(assignment)
    groups = sorted(layouts.values(), key=lambda group: any(free.has(a) for a in group))
    rounds = itertools.zip_longest(*groups)
    return [assignment for one in rounds for assignment in one if assignment is not None]


def _unique(assignments: Sequence[Configuration]) -> list[Configuration]:
    return list(
        {
            committed_grids.key(assignment.settings): assignment for assignment in assignments
        }.values()
    )


def _sourced(
    assignments: Sequence[Configuration], how: str, grid: Grid | None
) -> list[Configuration]:
    """Each says where it comes from; a remark of its adapter stays."""
    where = how if grid is None else f"{how} in {grid.source}"
    return [
        replace(assignment, grid="; ".join(text for text in (where, assignment.grid) if text))
        for assignment in assignments
    ]


Try = Callable[[Configuration], Status]
"""One launch up to the accounted step, under the limit: how it ended."""


def fitting(found: Candidates, wanted: int, attempt: Try) -> list[Configuration]:
    """The first `wanted` of the candidates that fit, by enforced launches where none has proven it.

    Where none fits, the last that was tried, whose failure is then the result; [] of no candidate.
    """
    chosen: list[Configuration] = []
    tried: list[Configuration] = []
    for assignment in found.ordered:
        if len(chosen) == wanted:
            break
        if committed_grids.key(assignment.settings) in found.proven:
            chosen.append(assignment)
            continue
        if len(tried) == TRIES_PER_POINT * wanted and assignment is not found.ordered[-1]:
            continue
        status = attempt(assignment)
        tried.append(assignment)
        if status == "ok":
            chosen.append(_after(assignment, len(tried) - len(chosen) - 1))
    return chosen or tried[-1:]


def _after(assignment: Configuration, failed: int) -> Configuration:
    words = f"{assignment.grid}; confirmed by an enforced launch"
    if failed > 0:
        words += f", after {failed} that did not fit"
    return replace(assignment, grid=words)


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
        proven = {*proven, *committed_grids.fit_under(system, workload, limit_bytes)}
    return candidates(
        grid,
        committed_grids.grid(system, workload, limit_bytes),
        committed_grids.grid(system, workload, None),
        limit_bytes=limit_bytes,
        own=own,
        proven=proven,
    )

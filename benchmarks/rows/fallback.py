"""What takes the place of a row that ran out of memory, so that it ends with a point that fits.

A chosen point may be near the limit: its fit is known from its peak without a limit, or from a
single launch. Of an untuned row nothing is known, so its points are tried.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from baselines import registry
from benchmarks.rows import candidates
from benchmarks.rows.assign import UNTUNED, grid_assignments, planned_by_the_solver
from benchmarks.rows.candidates import TRIES_PER_POINT, Candidates
from benchmarks.rows.known_grids import TRIED
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload

NO_FIT = f"not tuned: the emulated choice does not fit; {TRIED}"


def _is_unmeasured(refused: Configuration) -> bool:
    """Whether nothing was measured of the row: it is untuned, or an emulated choice."""
    return refused.emulated or not refused.tuned


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """The configuration to launch after an out-of-memory launch of a row, or None.

    `own_sequences` is the workload's own count, for which the known times hold. `proven` are keys
    of settings that ran under this limit or a tighter one. A tuned row falls back TRIES_PER_POINT
    times, then once more, to the point of least memory. An untuned row without a known point, and
    one with an emulated choice, goes half of the way to the end of its grid each time. A measured
    plan gives way to the solver's.
    candidates_by_system: those of the workload, where the caller has ordered them.
    """

    workload: Workload
    own_sequences: int
    proven: Collection[str] = ()
    candidates_by_system: dict[str, Candidates] = field(default_factory=dict)
    _tried: dict[str, list[str]] = field(default_factory=dict)
    _labels: dict[str, str] = field(default_factory=dict)

    def __call__(self, refused: Configuration) -> Configuration | None:
        if not refused.settings:
            return None
        if refused.row.choosing == "planned":
            return self._solved(refused)
        if refused.row.choosing != "tuned":
            return None
        label = self._labels.setdefault(refused.row.label, refused.row.label)
        tried = self._tried.setdefault(label, [])
        tried.append(refused.key)
        rest = self._rest(refused, tried)
        falls = len(tried)
        if not rest or falls > TRIES_PER_POINT + 1:
            return None
        point = rest[0] if falls <= TRIES_PER_POINT else self._leanest(refused, rest)
        row = replace(refused.row, label=f"{label}, point {falls + 1}")
        self._labels[row.label] = label
        after = f"after {falls} that did not fit"
        if _is_unmeasured(refused):
            words = f"{point.settings_text} {UNTUNED}"
            source = refused.grid.partition("; after ")[0]
            if refused.emulated:
                remark = registry.load(refused.row.system).remark
                source = "; ".join(filter(None, (NO_FIT, remark)))
            point = replace(point, settings_text=words, tuned=False, grid=source)
        return replace(point, row=row, grid=f"{point.grid}; {after}")

    def _rest(self, refused: Configuration, tried: Collection[str]) -> list[Configuration]:
        """The candidates that are left: those proven to fit, if any, else those after the refused.

        Of an untuned row, and behind an emulated choice, those behind the middle between the
        refused point and the grid's end.
        """
        known = self._candidates(refused.row.system)
        rest = [point for point in known.ordered if point.key not in tried]
        proven = [point for point in rest if point.key in known.proven]
        if proven:
            return proven
        if _is_unmeasured(refused):
            return self._second_half(refused, tried)
        keys = [point.key for point in known.ordered]
        first = keys.index(refused.key) + 1 if refused.key in keys else 0
        return [point for point in known.ordered[first:] if point.key not in tried]

    def _second_half(self, refused: Configuration, tried: Collection[str]) -> list[Configuration]:
        """A grid begins with the least work, and its end recomputes most."""
        grid = grid_assignments(refused.row.system, self.workload)
        able = [point for point in grid if point.status is None]
        keys = [point.key for point in able]
        if refused.key not in keys:
            return []
        middle = (keys.index(refused.key) + len(able)) // 2
        return [point for point in able[middle:] if point.key not in tried]

    def _leanest(self, refused: Configuration, rest: list[Configuration]) -> Configuration:
        """The point of the least known peak; without known peaks the last."""
        peaks = self._candidates(refused.row.system).peaks_bytes
        known = [point for point in rest if point.key in peaks]
        return min(known, key=lambda point: peaks[point.key], default=rest[-1])

    def _candidates(self, system: str) -> Candidates:
        known = self.candidates_by_system
        if system not in known:
            grid = grid_assignments(system, self.workload)
            known[system] = candidates.of_system(
                system, self.workload, grid, self.own_sequences, self.proven
            )
        return known[system]

    def _solved(self, refused: Configuration) -> Configuration | None:
        """The solver's plan in the place of a measured one; None where that was refused."""
        solved = planned_by_the_solver(refused.row, self.workload)
        if solved.key == refused.key or solved.status is not None:
            return None
        row = replace(refused.row, label=f"{refused.row.label}, point 2")
        return replace(solved, row=row, grid=f"{solved.grid}; after 1 that did not fit")

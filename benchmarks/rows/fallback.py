"""The next point of a tuned row's grid, after the chosen point ran out of memory.

A chosen point may be near the limit: its fit is known from its peak without a limit, or from a
single launch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from benchmarks.rows import candidates
from benchmarks.rows.assign import grid_assignments
from benchmarks.rows.candidates import TRIES_PER_POINT, Candidates
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """The configuration to launch after an out-of-memory launch of a tuned row, or None.

    `own_sequences` is the workload's own count, for which the committed times hold. `proven` are
    keys of settings that ran under this limit or a tighter one. A row falls back TRIES_PER_POINT
    times, then once more, to the point of least memory.
    """

    workload: Workload
    own_sequences: int
    proven: Collection[str] = ()
    _falls: dict[str, tuple[str, int]] = field(default_factory=dict)
    _known: dict[str, Candidates] = field(default_factory=dict)

    def __call__(self, refused: Configuration) -> Configuration | None:
        if refused.row.choosing != "tuned" or not refused.settings or not refused.tuned:
            return None  # an untuned row already has the least memory
        rest = self._after(refused)
        label, falls = self._falls.get(refused.row.label, (refused.row.label, 0))
        if not rest or falls > TRIES_PER_POINT:
            return None
        point = rest[0] if falls < TRIES_PER_POINT else rest[-1]
        row = replace(refused.row, label=f"{label}, point {falls + 2}")
        self._falls[row.label] = label, falls + 1
        return replace(point, row=row, grid=f"{point.grid}; after {falls + 1} that did not fit")

    def _after(self, refused: Configuration) -> list[Configuration]:
        """The candidates after the refused one: those proven to fit, if any, else all."""
        known = self._candidates(refused.row.system)
        keys = [point.key for point in known.ordered]
        first = keys.index(refused.key) + 1 if refused.key in keys else 0
        rest = list(known.ordered[first:])
        return [point for point in rest if point.key in known.proven] or rest

    def _candidates(self, system: str) -> Candidates:
        if system not in self._known:
            grid = grid_assignments(system, self.workload)
            self._known[system] = candidates.of_system(
                system, self.workload, grid, self.own_sequences, self.proven
            )
        return self._known[system]

"""The next point of a tuned row's grid, where the one that was chosen does not fit after all.

A chosen point may be near the limit: known to fit from its peak without one, or by a single launch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from benchmarks.rows import candidates, committed_grids
from benchmarks.rows.assign import grid_assignments
from benchmarks.rows.candidates import TRIES_PER_POINT, Candidates
from benchmarks.rows.row import Configuration
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """Told of a launch that was refused memory: what to launch instead, or None.

    `own_sequences` is the workload's own count, for which its committed times hold; `proven` are
    settings that ran under this limit or a tighter one. A row falls back TRIES_PER_POINT times,
    then once more, to the point of least memory.
    """

    workload: Workload
    own_sequences: int
    proven: Collection[str] = ()
    _falls: dict[str, tuple[str, int]] = field(default_factory=dict)
    _known: dict[str, Candidates] = field(default_factory=dict)

    def __call__(self, refused: Configuration) -> Configuration | None:
        if refused.row.choosing != "tuned" or not refused.settings or not refused.tuned:
            return None  # an untuned row stands for the least memory already
        rest = self._after(refused)
        label, falls = self._falls.get(refused.row.label, (refused.row.label, 0))
        if not rest or falls > TRIES_PER_POINT:
            return None
        other = rest[0] if falls < TRIES_PER_POINT else rest[-1]
        row = replace(refused.row, label=f"{label}, point {falls + 2}")
        self._falls[row.label] = label, falls + 1
        grid = f"{other.grid}; after {falls + 1} that did not fit"
        return replace(other, row=row, grid=grid)

    def _after(self, refused: Configuration) -> list[Configuration]:
        """Of the candidates behind the refused one those proven to fit, if any; else all."""
        found = self._candidates(refused.row.system)
        keys = [committed_grids.key(assignment.settings) for assignment in found.ordered]
        key = committed_grids.key(refused.settings)
        rest = list(found.ordered[keys.index(key) + 1 :] if key in keys else found.ordered)
        sure = [one for one in rest if committed_grids.key(one.settings) in found.proven]
        return sure or rest

    def _candidates(self, system: str) -> Candidates:
        if system not in self._known:
            grid = grid_assignments(system, self.workload)
            self._known[system] = candidates.of_system(
                system, self.workload, grid, self.own_sequences, self.proven
            )
        return self._known[system]

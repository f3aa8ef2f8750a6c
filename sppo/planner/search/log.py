"""The layouts of a solver's search and the result of each. Data only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sppo.config.errors import LayoutDoesNotFit
from sppo.planner.layouts.timed_layout import TimedLayout


@dataclass(frozen=True, kw_only=True)
class Search:
    """Layouts with the simulated seconds, the shortage or the lower bound of each.

    bounds: by place in `layouts`; no step of that layout takes fewer seconds. Layouts without
    seconds and shortage were not simulated: their bound is too long, no cut of their family fits
    (`hopeless`, of families with hosted K and V), or enough layouts were simulated.
    """

    layouts: Sequence[TimedLayout]
    bounds: list[float]
    seconds: dict[TimedLayout, float] = field(default_factory=dict)
    short: dict[TimedLayout, LayoutDoesNotFit] = field(default_factory=dict)
    hopeless: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def is_short(self, layout: TimedLayout) -> bool:
        """Whether this layout, or every cut of its family, does not fit."""
        return bool(self.hopeless.get(layout.family)) or layout in self.short

    def near(self, factor: float) -> list[TimedLayout]:
        """The layouts whose simulated steps are up to `factor` times the best, the best first."""
        ranked = sorted(self.seconds, key=lambda layout: self.seconds[layout])
        return [
            layout for layout in ranked if self.seconds[layout] <= factor * self.seconds[ranked[0]]
        ]

    def least_bound(self, group: Sequence[TimedLayout]) -> float:
        """The least lower bound of some of the search's layouts."""
        members = {id(layout) for layout in group}
        pairs = zip(self.layouts, self.bounds, strict=True)
        return min(bound for layout, bound in pairs if id(layout) in members)

    @property
    def finest_short(self) -> list[TimedLayout]:
        """Of each family the finest cut that does not fit.

        A coarser cut fails an earlier test, which sees less of what the cut lacks.
        """
        finest: dict[tuple[int, ...], TimedLayout] = {}
        for layout in self.short:
            known = finest.setdefault(layout.family, layout)
            if layout.subsequences > known.subsequences:
                finest[layout.family] = layout
        return list(finest.values())

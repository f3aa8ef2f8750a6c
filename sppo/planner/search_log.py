"""The layouts of a solver's search and the result of each. Data only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sppo.config.errors import LayoutDoesNotFit
from sppo.planner.layouts.timed_layout import TimedLayout


@dataclass(frozen=True, kw_only=True)
class Search:
    """Layouts in the order of the search, with the simulated seconds or the shortage of each.

    Layouts with neither were skipped: their compute alone took too long, enough were simulated, or
    no cut of their family fits.
    """

    layouts: Sequence[TimedLayout]
    seconds: dict[TimedLayout, float] = field(default_factory=dict)
    short: dict[TimedLayout, LayoutDoesNotFit] = field(default_factory=dict)

    @property
    def finest_short(self) -> list[TimedLayout]:
        """Of each family that does not fit, the cut that needs the least memory."""
        finest: dict[tuple[int, ...], TimedLayout] = {}
        for layout in self.short:
            known = finest.setdefault(layout.family, layout)
            if layout.subsequences > known.subsequences:
                finest[layout.family] = layout
        return list(finest.values())

"""The second panel of an item: what is measured in miniature, or the command that measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.paper.items.item import Item, Point, Table
from benchmarks.paper.miniature import report, result
from benchmarks.paper.miniature.result import MeasuredFigure, MeasuredRatio, MeasuredRow
from benchmarks.reporting import style
from benchmarks.reporting.tables import size_words, spread_words
from benchmarks.reporting.text_table import NO_NUMBER

HEADING = "In miniature, measured"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What the measurement adds to an item. draw: on a part of the figure, `inches` high."""

    verdict: str
    points: Sequence[Point]
    tables: Sequence[Table]
    notes: Sequence[str]
    draw: Callable[[Any], None]
    inches: float = 4.2


def row_cells(row: MeasuredRow, ratio: MeasuredRatio | None) -> list[str]:
    """Row, settings, status, timing, step, the given ratio and device peak of a measured row."""
    summary = row.summary
    return [
        summary.row,
        summary.settings or NO_NUMBER,
        summary.status,
        summary.timing or NO_NUMBER,
        spread_words(summary.step_seconds),
        NO_NUMBER if ratio is None else report.ratio_words(ratio),
        size_words(summary.tracked_peak_bytes),
    ]


def with_miniature(item: Item, figure: str, make: Callable[[MeasuredFigure], Panel]) -> Item:
    """The item with the panel of the committed measurement; with a note where there is none.

    Raises OSError, RecordError.
    """
    measured = result.read(result.published(figure))
    if measured is None:
        note = f"In miniature: not measured yet: `{result.command(figure)}`."
        return replace(item, notes=[*item.notes, note])
    panel = make(measured)
    width, height = item.inches

    def draw(whole: Any) -> None:
        upper, lower = whole.subfigures(2, 1, height_ratios=(height, panel.inches))
        item.draw(upper)
        panel.draw(lower)

    return replace(
        item,
        points=[*item.points, *panel.points],
        verdict=f"{item.verdict} {HEADING}: {panel.verdict}",
        notes=[*item.notes, f"Measured in miniature on {measured.measured_on}.", *panel.notes],
        tables=[*item.tables, *panel.tables],
        draw=draw,
        inches=(width, height + panel.inches),
        drawn_source=f"{item.drawn_source} · below: {style.source('measured', measured.origin)}",
    )

"""The history as a PNG: a panel for each series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.regression.history.report import verdict
from benchmarks.regression.history.series import Point, Segment, Series
from benchmarks.reporting import style
from sppo.config.sizes import MIB

MOST_PANELS = 12

PANEL_INCHES = 2.1

NAME_LETTERS = 7

MOST_TICKS = 16
"""Commits that are named below a panel, evenly spaced."""

NORMAL, WORSE = style.look("sppo").colour, style.FAILED


def most_relevant(all_series: Sequence[Series]) -> list[Series]:
    """At most MOST_PANELS series: regressions first, then suspects, then those with a change."""
    return sorted(all_series, key=_rank)[:MOST_PANELS]


def _rank(series: Series) -> int:
    signs = (series.regressed_now, series.suspect is not None, series.changes(series.segments[-1]))
    return next((rank for rank, sign in enumerate(signs) if sign), len(signs))


def draw(all_series: Sequence[Series], path: Path) -> None:
    """Write the PNG of at most MOST_PANELS series. Raises OSError where it cannot be written."""
    assert len(all_series) <= MOST_PANELS
    title = "History by commit (hollow: void; dashed: not comparable)"
    source = "gray: medians between changes · commits evenly spaced · no axis begins at 0"
    inches = (8.0, 0.9 + PANEL_INCHES * len(all_series))
    with style.page(path, title=title, source=source, inches=inches) as figure:
        for number, series in enumerate(all_series):
            _panel(figure.add_subplot(len(all_series), 1, number + 1), series)


def _panel(axes: Any, series: Series) -> None:
    places = {id(point): place for place, point in enumerate(series.points)}
    for segment in series.segments:
        _draw_segment(axes, series, segment, places)
    names = [point.entry.commit_name[:NAME_LETTERS] for point in series.points]
    step = -(-len(names) // MOST_TICKS)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=30, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    values = [_scaled(point, point.metric.value) for point in series.points]
    axes.set_ylim(bottom=0.92 * min(values), top=1.1 * max(values) or 1.0)
    unit = "MiB" if series.metric.unit == "bytes" else series.metric.unit
    axes.set_ylabel(f"{unit}, {series.metric.better} is better")
    axes.set_title(f"{series.name} · {series.machine} · {verdict(series)}")


def _draw_segment(axes: Any, series: Series, segment: Segment, places: dict[int, int]) -> None:
    first = places[id(segment.points[0])]
    if segment.broken_by:
        axes.axvline(first - 0.5, color=style.FAINT, linestyle="--", linewidth=0.9)
        _words(axes, segment.broken_by.replace(", ", "\n"), first - 0.5)
    for void in (False, True):
        points = [point for point in segment.points if bool(point.void) == void]
        _draw_points(axes, points, places, hollow=void)
    changes = series.changes(segment)
    judged = segment.judged
    starts = [0, *(judged.index(point) for point, _ in changes)]
    for start, end in zip(starts, [*starts[1:], len(judged)], strict=True):
        if start < end:
            level = float(np.median([_scaled(at, at.metric.value) for at in judged[start:end]]))
            span = [places[id(judged[start])] - 0.3, places[id(judged[end - 1])] + 0.3]
            axes.plot(span, [level, level], color=style.FAINT, linewidth=1.0, marker="")
    for point, change in changes:
        worse = series.is_worse(change.after - change.before)
        place = places[id(point)]
        colour = WORSE if worse else NORMAL
        axes.axvline(place - 0.5, color=colour, linewidth=1.2)
        share = "" if change.share is None else f"{change.share:+.1%}"
        _words(axes, f"{'worse' if worse else 'better'} {share}", place - 0.5, failed=worse)


def _draw_points(
    axes: Any, points: Sequence[Point], places: dict[int, int], *, hollow: bool
) -> None:
    values = [_scaled(point, point.metric.value) for point in points]
    spans = [_span(point) for point in points]
    axes.errorbar(
        [places[id(point)] for point in points],
        values,
        yerr=[[below for below, _ in spans], [above for _, above in spans]],
        color=NORMAL,
        linestyle="none",
        marker="o",
        markersize=4.5,
        markerfacecolor=style.PAPER if hollow else NORMAL,
        elinewidth=0.8,
        capsize=1.5,
        label="void, not judged" if hollow else "judged",
    )


def _span(point: Point) -> tuple[float, float]:
    """From the low end to the value, and on to the high end; 0 for an unknown end."""
    metric = point.metric
    low = metric.value if metric.low is None else metric.low
    high = metric.value if metric.high is None else metric.high
    below, above = max(0.0, metric.value - low), max(0.0, high - metric.value)
    return _scaled(point, below), _scaled(point, above)


def _scaled(point: Point, value: float) -> float:
    """The value as drawn: bytes in MiB."""
    return value / MIB if point.metric.unit == "bytes" else float(value)


def _words(axes: Any, text: str, place: float, *, failed: bool = False) -> None:
    across = axes.get_xaxis_transform()
    style.words(axes, text, (place, 0.98), xycoords=across, xytext=(3, 0), va="top", failed=failed)

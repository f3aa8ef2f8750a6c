"""Drawings that several items share: bars in groups, and the looks of ours and the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.paper.items.item import Point
from benchmarks.reporting import style

Look = Mapping[str, Any]
"""Arguments of a bar for matplotlib."""

OURS: Look = style.bar("sppo")
PAPERS: Look = style.bar("sppo", hollow=True)
OURS_IN_THE_PAPERS_PLAN: Look = style.bar("sppo", hatch="///")
WHAT_IF: Look = style.bar("sppo", pale=True, hatch="...")


GROUP_WIDTH = 0.86
CROWDED = 18
"""Bars of a panel from which on the numbers above them stand upright."""


STANDING_WORDS = 0.026
"""Room above the bars for each letter of standing words, as a share of the tallest bar."""


def grouped_bars(
    axes: Any,
    points: Sequence[Point],
    looks: Mapping[str, Look],
    *,
    form: str = "{:.1f}",
    upright: bool = False,
    highs: Mapping[tuple[str, str], float] | None = None,
    words: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """A group a place, a bar a series, in the order of `looks`; its number or its outcome above.

    A point without a value has its outcome in words at the axis. upright: the numbers stand.
    highs: by series and place the upper end of a range that begins at the value. words: by series
    and place what stands above a bar instead of its number.
    """
    places = list(dict.fromkeys(point.place for point in points))
    width = GROUP_WIDTH / max(2, len(looks))
    rotation = 90 if upright or len(places) * len(looks) >= CROWDED else 0
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.5, len(places) - 0.5)
    for index, (series, look) in enumerate(looks.items()):
        offset = (index + 0.5 - len(looks) / 2) * width
        for point in points:
            if point.series != series:
                continue
            middle = places.index(point.place) + offset
            key = (series, point.place)
            high = (highs or {}).get(key, point.value)
            above = (words or {}).get(key) or _number(point, form)
            _bar(axes, point, middle, width, look, words=above, rotation=rotation, high=high)
    longest = max(map(len, (words or {}).values()), default=0)
    axes.margins(y=max(0.16, STANDING_WORDS * longest) if rotation else 0.1)
    axes.set_ylim(bottom=0)
    if all(point.value is None for point in points):  # outcomes in words alone
        axes.set_ylim(top=1)
        axes.set_yticks([])


def _number(point: Point, form: str) -> str:
    return f"✕ {point.outcome}" if point.value is None else form.format(point.value)


def _bar(
    axes: Any,
    point: Point,
    middle: float,
    width: float,
    look: Look,
    *,
    words: str,
    rotation: int,
    high: float | None,
) -> None:
    above: dict[str, Any] = {"xytext": (0, 3), "ha": "center", "va": "bottom"}
    if point.value is None:
        axes.bar(middle, 0, 0.9 * width, label=point.series, **look)
        style.words(axes, words, (middle, 0), failed=True, rotation=90, **above)
        return
    axes.bar(middle, point.value, 0.9 * width, label=point.series, **look)
    top = point.value if high is None else max(high, point.value)
    if top > point.value:
        spread = [[0.0], [top - point.value]]
        axes.errorbar(middle, point.value, yerr=spread, color=style.INK, elinewidth=1.1, capsize=2)
    style.words(axes, words, (middle, top), rotation=rotation, **above)

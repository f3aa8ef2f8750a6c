"""Charts as figures of Plotly. Colours, markers and hatches are those of every other figure.

Plotly reads a subset of HTML in its texts. So every foreign text passes `plain_text`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from benchmarks.file_names import printable
from benchmarks.records.record import group_by
from benchmarks.records.timeline import LANES, Event, span_ns
from benchmarks.reporting import style
from benchmarks.reporting.chrome_trace import LANE_NAMES, category
from benchmarks.site.document import finite
from benchmarks.site.page import Chart, Table, number_in
from sppo.config.sizes import GIB

BAR_PIXELS = 46
AXIS_PIXELS = 70
LANE_PIXELS = 26
LEGEND_PIXELS = 60
LINES_PIXELS = 380
NAME_LETTERS = 20
"""Letters of a line of a bar's name: a phone has room for them beside the bar."""

_MARKERS = {
    "D": "diamond",
    "s": "square",
    "P": "cross",
    "o": "circle",
    "h": "hexagon",
    "v": "triangle-down",
    "^": "triangle-up",
}
"""Matplotlib's name of a marker -> Plotly's."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number at a place of an axis, with the ends of its interval; None where there is none.

    words: what a reader sees. system: decides the look.
    """

    place: str
    system: str
    value: float | None
    low: float | None = None
    high: float | None = None
    words: str


def plain_text(text: str) -> str:
    """Text that Plotly shows as it stands."""
    return html.escape(printable(text), quote=False)


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(printable(text), NAME_LETTERS) or ["-"]
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def bars(values: Sequence[Value], *, title: str, axis: str, source: str) -> Chart:
    """A horizontal bar for each value, the first on top, with its words beside its place.

    A value of None is its words alone.
    """
    figure = go.Figure()
    for value in values:
        figure.add_bar(
            orientation="h",
            y=[f"{_wrapped(value.place)}<br><b>{plain_text(value.words)}</b>"],
            x=[value.value or 0.0],
            customdata=[[plain_text(value.place), plain_text(value.words)]],
            marker=_bar_marker(value.system),
            error_x=_interval([value]),
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    figure.update_layout(barmode="overlay", showlegend=False)
    figure.update_xaxes(title=plain_text(axis), rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return _chart(figure, title, source, AXIS_PIXELS + BAR_PIXELS * len(values))


def lines(values: Sequence[Value], *, title: str, place: str, axis: str, source: str) -> Chart:
    """A line for each system over the places, in their order."""
    figure = go.Figure()
    for system, group in group_by(values, lambda value: value.system).items():
        look = style.look(system)
        figure.add_scatter(
            name=plain_text(look.name),
            mode="lines+markers",
            x=[plain_text(value.place) for value in group],
            y=[value.value for value in group],
            customdata=[plain_text(value.words) for value in group],
            error_y=_interval(group),
            line={"color": look.colour if _has_look(system) else None},
            marker={"symbol": _MARKERS.get(look.marker, "circle"), "size": 8},
            hovertemplate="%{x}: %{customdata}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title=plain_text(place), type="category", **_all_places(values))
    figure.update_yaxes(title=plain_text(axis), rangemode="tozero")
    return _chart(figure, title, source, LINES_PIXELS)


def groups(values: Sequence[Value], *, title: str, place: str, axis: str, source: str) -> Chart:
    """At every place a bar for each system."""
    figure = go.Figure()
    for system, group in group_by(values, lambda value: value.system).items():
        figure.add_bar(
            name=plain_text(style.look(system).name),
            x=[plain_text(value.place) for value in group],
            y=[value.value or 0.0 for value in group],
            text=[plain_text(value.words) for value in group],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            marker=_bar_marker(system) if _has_look(system) else None,
            hovertemplate="%{x}: %{text}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(barmode="group")
    figure.update_xaxes(title=plain_text(place), type="category", **_all_places(values))
    figure.update_yaxes(title=plain_text(axis), rangemode="tozero")
    return _chart(figure, title, source, LINES_PIXELS)


def points(
    values: Sequence[Value], *, void: Sequence[bool], title: str, axis: str, source: str
) -> Chart:
    """A number over commits. A void point is hollow."""
    figure = go.Figure(
        go.Scatter(
            mode="lines+markers",
            x=list(range(len(values))),
            y=[value.value for value in values],
            customdata=[[plain_text(value.place), plain_text(value.words)] for value in values],
            error_y=_interval(values),
            line={"color": style.look("sppo").colour, "width": 1},
            marker={"symbol": ["circle-open" if each else "circle" for each in void], "size": 8},
            hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
        )
    )
    step = -(-len(values) // 8) or 1
    shown = range(0, len(values), step)
    names = [plain_text(values[place].place) for place in shown]
    figure.update_xaxes(title="commit", tickvals=list(shown), ticktext=names)
    figure.update_yaxes(title=plain_text(axis), rangemode="tozero")
    return _chart(figure, title, source, LINES_PIXELS - 100)


def curves(rows: Table, *, title: str, source: str) -> Chart:
    """A line for each column of numbers over the rows. Columns named in bytes are in GiB."""
    figure = go.Figure()
    numeric = rows.numeric
    for column, name in enumerate(rows.titles):
        if not numeric[column]:
            continue
        numbers = [number_in(row[column].text) for row in rows.rows]
        kind = name.removesuffix("_bytes")
        scale = 1 if kind == name else GIB
        colour, _ = style.KINDS.get(kind, (None, ""))
        figure.add_scatter(
            name=plain_text(kind if scale == 1 else f"{kind}, GiB"),
            mode="lines",
            y=[None if value is None else round(value / scale, 4) for value in numbers],
            visible=True if scale == GIB else "legendonly",
            line={"width": 1.2, "color": colour},
        )
    figure.update_xaxes(title="row of the file")
    return _chart(figure, title, source, LINES_PIXELS)


def timeline(timelines: Sequence[Sequence[Event]], *, title: str, source: str) -> Chart:
    """The instructions of every rank over milliseconds, a line for each rank and lane.

    timelines: one per rank.
    """
    events = [(rank, event) for rank, each in enumerate(timelines) for event in each]
    start_ns, _ = span_ns(timelines)
    figure = go.Figure()
    for kind, group in group_by(events, lambda item: category(item[1])).items():
        colour, _ = style.INSTRUCTIONS[kind]
        figure.add_bar(
            name=plain_text(kind),
            orientation="h",
            y=[_lane(rank, event) for rank, event in group],
            base=[(event.start_ns - start_ns) / 1e6 for _, event in group],
            x=[(event.end_ns - event.start_ns) / 1e6 for _, event in group],
            customdata=[plain_text(event.name) for _, event in group],
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{customdata}: %{x:.3f} ms from %{base:.3f} ms<extra></extra>",
        )
    used = {(rank, event.lane) for rank, event in events}
    rows = [
        (rank, lane) for rank in range(len(timelines)) for lane in LANES if (rank, lane) in used
    ]
    order = [f"rank {rank} {LANE_NAMES[lane]}" for rank, lane in rows]
    figure.update_layout(barmode="overlay", dragmode="zoom", bargap=0.15)
    figure.update_xaxes(title="milliseconds")
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    height = AXIS_PIXELS + LEGEND_PIXELS + LANE_PIXELS * len(order)
    return _chart(figure, title, source, height)


def _lane(rank: int, event: Event) -> str:
    return f"rank {rank} {LANE_NAMES[event.lane]}"


def _has_look(system: str) -> bool:
    """Whether a system has colours of its own; Plotly chooses those of any other series."""
    return style.look(system).name != system


def _bar_marker(system: str) -> dict[str, Any]:
    look = style.look(system)
    hatches = {"/": "/", "\\": "\\", "x": "x", ".": ".", "o": "+"}
    shape = hatches.get(look.hatch[:1], "")
    pattern = {"shape": shape, "fillmode": "overlay", "size": 7, "solidity": 0.15}
    return {"color": look.colour, "pattern": pattern}


def _interval(values: Sequence[Value]) -> dict[str, Any] | None:
    """Error bars; None where no value has an interval."""
    if all(value.low is None and value.high is None for value in values):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(value.high, value.value) for value in values],
        "arrayminus": [_distance(value.value, value.low) for value in values],
        "thickness": 1.2,
        "width": 4,
    }


def _distance(high: float | None, low: float | None) -> float:
    return 0.0 if high is None or low is None else max(0.0, high - low)


def _all_places(values: Sequence[Value]) -> dict[str, Any]:
    """The places of all values as the axis' categories, in order."""
    places = list(dict.fromkeys(plain_text(value.place) for value in values))
    return {"categoryorder": "array", "categoryarray": places}


def _chart(figure: Any, title: str, source: str, height: int) -> Chart:
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    if figure.layout.dragmode is None:
        figure.update_layout(dragmode=False)
    values = finite(figure.to_plotly_json())
    return Chart(title=title, source=source, figure=values, height=height)

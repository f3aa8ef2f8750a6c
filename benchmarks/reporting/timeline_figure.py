"""A step's timeline as a picture: a row for every rank and lane, simulated above measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.timeline import LANES, Event, span_ns
from benchmarks.reporting.chrome_trace import LANE_NAMES, category

_COLOURS = {
    "forward": ("#0b6e4f", "#4fa386"),
    "backward": ("#345f8f", "#83a6cc"),
    "zero dKV": ("#9aa1ab", "#9aa1ab"),
    "offload": ("#c8862a", "#c8862a"),
    "reload": ("#e0b268", "#e0b268"),
    "send": ("#8e5a9e", "#8e5a9e"),
    "receive": ("#c4a5cd", "#c4a5cd"),
    "MSP weights": ("#b5476b", "#b5476b"),
}
"""Per category: parts 0, 2, ... of a stage, and parts 1, 3, ..."""

_INK = "#22262b"
_FAINT = "#6b7280"
_BAND = "#f3f4f6"

_COMPUTE_HEIGHT = 1.0
_LANE_HEIGHT = 0.5
_RANK_GAP = 0.45
_FEW_RANKS = 8
"""Up to so many, lanes and subsequences are named."""
_DIGIT_SHARE = 0.0065
"""Of the time axis, a digit: a compute gets its subsequence's number where that fits."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One step: a timeline for each of `ranks`, on a pipeline of `stages`.

    `label` is "simulated" or "measured", `caption` says where it comes from.
    """

    label: str
    caption: str
    stages: int
    ranks: Sequence[int]
    timelines: Sequence[Sequence[Event]]


def draw(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Write a PNG with the panels above each other on one time axis, each from its own start."""
    from matplotlib.figure import Figure

    spans = [span_ns(panel.timelines) for panel in panels]
    longest_ns = max(end - start for start, end in spans)
    lanes = _used_lanes(panels)
    ranks = max(len(panel.timelines) for panel in panels)
    rank_height = _COMPUTE_HEIGHT + _LANE_HEIGHT * (len(lanes) - 1)
    height = min(0.34, 7.0 / ranks) * (rank_height + _RANK_GAP) * ranks + 0.55
    figure = Figure(figsize=(11.0, 1.1 + height * len(panels)), dpi=160, layout="constrained")
    grid: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    unit, unit_ns = ("ms", 1e6) if longest_ns < 10e9 else ("s", 1e9)
    for axes, panel, (start_ns, _) in zip(grid[:, 0], panels, spans, strict=True):
        _draw_panel(axes, panel, lanes, start_ns, unit_ns, longest_ns / unit_ns)
    last = grid[-1, 0]
    last.set_xlim(0, 1.005 * longest_ns / unit_ns)
    last.set_xlabel(_axis_words(unit, panels), color=_FAINT, fontsize=8, loc="left")
    figure.suptitle(title, x=0.008, ha="left", color=_INK, fontsize=12, fontweight="bold")
    _legend(figure, panels)
    figure.savefig(path, facecolor="white")


def _axis_words(unit: str, panels: Sequence[Panel]) -> str:
    words = f"{unit} since the step's first instruction; numbers are subsequences"
    parts = {
        event.instruction.part // panel.stages
        for panel in panels
        for timeline in panel.timelines
        for event in timeline
    }
    return f"{words}; light: every second part of a stage" if len(parts) > 1 else words


def _used_lanes(panels: Sequence[Panel]) -> list[str]:
    used = {event.lane for panel in panels for timeline in panel.timelines for event in timeline}
    return [lane for lane in LANES if lane in used or lane == "compute"]


def _draw_panel(
    axes: Any,
    panel: Panel,
    lanes: Sequence[str],
    start_ns: int,
    unit_ns: float,
    width: float,
) -> None:
    few = len(panel.timelines) <= _FEW_RANKS
    position = 0.0
    ticks, names = [], []
    for rank, timeline in zip(panel.ranks, panel.timelines, strict=True):
        top = position
        for lane in lanes:
            height = _COMPUTE_HEIGHT if lane == "compute" else _LANE_HEIGHT
            events = [event for event in timeline if event.lane == lane]
            _draw_lane(axes, panel, events, (position, height), (start_ns, unit_ns, width))
            if few:
                ticks.append(position + height / 2)
                names.append(LANE_NAMES[lane])
            position += height
        axes.axhspan(top, position, color=_BAND, zorder=0, linewidth=0)
        axes.annotate(
            f"rank {rank}",
            xy=(0, top + _COMPUTE_HEIGHT / 2 if few else (top + position) / 2),
            xycoords=("axes fraction", "data"),
            xytext=(-52 if few else -6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=_INK,
            fontsize=9 if few else 6.5,
            annotation_clip=False,
        )
        position += _RANK_GAP
    axes.set_ylim(position - _RANK_GAP + 0.1, -0.1)
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", colors=_FAINT, labelsize=7, length=0)
    axes.tick_params(axis="x", colors=_FAINT, labelsize=8, length=0, labelbottom=True)
    axes.grid(axis="x", color="#d9dce1", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(
        rf"$\bf{{{panel.label}}}$   {panel.caption}",
        loc="left",
        color=_INK,
        fontsize=9,
        pad=5,
    )


def _draw_lane(
    axes: Any,
    panel: Panel,
    events: Sequence[Event],
    place: tuple[float, float],
    time: tuple[int, float, float],
) -> None:
    """`place`: top and height of the row; `time`: start in ns, ns per unit, axis in units."""
    (top, height), (start_ns, unit_ns, width) = place, time
    inset = 0.08 * height
    few = len(panel.timelines) <= _FEW_RANKS
    boxes: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        start = (event.start_ns - start_ns) / unit_ns
        length = (event.end_ns - event.start_ns) / unit_ns
        instruction = event.instruction
        shades = _COLOURS[category(event)]
        shade = shades[instruction.part // panel.stages % 2]
        boxes.setdefault(shade, []).append((start, length))
        number = str(instruction.subsequence)
        if event.lane == "compute" and few and length > _DIGIT_SHARE * len(number) * width:
            axes.text(
                start + length / 2,
                top + height / 2,
                number,
                color="white",
                fontsize=6.5,
                ha="center",
                va="center",
                clip_on=True,
            )
    for shade, spans in boxes.items():
        axes.broken_barh(
            spans,
            (top + inset, height - 2 * inset),
            facecolors=shade,
            edgecolors="white" if height == _COMPUTE_HEIGHT else shade,
            linewidth=_edge_width(height, few),
        )


def _edge_width(height: float, few: bool) -> float:
    """Points: white between computes; in their own colour round copies and messages, too short to
    be seen without."""
    if height == _COMPUTE_HEIGHT:
        return 0.35 if few else 0.0
    return 0.5


def _legend(figure: Any, panels: Sequence[Panel]) -> None:
    """What was drawn, by colour; the lighter shade of a compute is the stage's second part."""
    from matplotlib.patches import Patch

    drawn = {
        category(event) for panel in panels for timeline in panel.timelines for event in timeline
    }
    handles = [
        Patch(color=shades[0], label=name) for name, shades in _COLOURS.items() if name in drawn
    ]
    figure.legend(
        handles=handles,
        loc="outside lower right",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        labelcolor=_INK,
        handlelength=1.0,
        handleheight=0.9,
        columnspacing=1.2,
        borderaxespad=0.3,
    )

"""A step's timeline as a figure: a row for every rank and lane, simulated above measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.timeline import LANES, Event, span_ns
from benchmarks.reporting import style
from benchmarks.reporting.chrome_trace import LANE_NAMES, category

_HEIGHTS = {"compute": 1.0, "d2h": 0.5, "h2d": 0.5, "p2p": 0.5}
_RANK_GAP = 0.45
_FEW_RANKS = 8
_LOW = "backward"
"""Lower boxes than a forward's: the two differ in black and white too."""
_DIGIT_SHARE = 0.0065
"""Of the time axis, a digit: a compute gets its subsequence's number where that fits."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One step: a timeline for each of `ranks`, on a pipeline of `stages`.

    The range `ranks` ends at the number of all ranks. `label` is "simulated" or "measured",
    `caption` says where the step comes from.
    """

    label: str
    caption: str
    stages: int
    ranks: range
    timelines: Sequence[Sequence[Event]]

    @property
    def names_lanes(self) -> bool:
        """Whether lanes and subsequences are named: only with few ranks is there room."""
        return len(self.timelines) <= _FEW_RANKS

    def chunk(self, event: Event) -> int:
        """The model chunk of its stage that an event belongs to, counted from 0."""
        return event.instruction.part // self.stages


def draw(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Write a PNG: the panels above each other on one time axis, each from its own start.

    Raises OSError.
    """
    events = [(panel, event) for panel in panels for line in panel.timelines for event in line]
    used = {"compute"} | {event.lane for _, event in events}
    lanes = [lane for lane in LANES if lane in used]
    spans = [span_ns(panel.timelines) for panel in panels]
    longest_ns = max(end - start for start, end in spans)
    unit, unit_ns = ("ms", 1e6) if longest_ns < 10e9 else ("s", 1e9)
    ranks = max(len(panel.timelines) for panel in panels)
    rows = (sum(_HEIGHTS[lane] for lane in lanes) + _RANK_GAP) * ranks
    inches = (11.0, 1.1 + (min(0.34, 7.0 / ranks) * rows + 0.55) * len(panels))

    source = " and ".join(panel.label for panel in panels)
    if any(panel.names_lanes for panel in panels):
        source += " · numbers: subsequences"
    if any(panel.chunk(event) for panel, event in events):
        source += " · light: every second chunk of a stage"
    with style.page(path, title=title, source=source, inches=inches) as figure:
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        grid[0].set_xlim(0, 1.005 * longest_ns)
        grid[0].xaxis.set_major_formatter(lambda time_ns, _: f"{time_ns / unit_ns:g}")
        for axes, panel, (start_ns, _) in zip(grid, panels, spans, strict=True):
            _draw_panel(axes, panel, lanes, start_ns)
        grid[-1].set_xlabel(f"{unit} since the step's first instruction")


def _draw_panel(axes: Any, panel: Panel, lanes: Sequence[str], start_ns: int) -> None:
    ticks = {}
    top = 0.0
    for rank, timeline in zip(panel.ranks, panel.timelines, strict=True):
        rank_top = top
        for lane in lanes:
            events = [event for event in timeline if event.lane == lane]
            _draw_lane(axes, panel, events, top, start_ns)
            if panel.names_lanes:
                name = f"rank {rank}   compute" if lane == "compute" else LANE_NAMES[lane]
                ticks[top + _HEIGHTS[lane] / 2] = name
            top += _HEIGHTS[lane]
        if not panel.names_lanes:
            ticks[(rank_top + top) / 2] = f"rank {rank}"
        axes.axhspan(rank_top, top, color=style.BAND, zorder=0, linewidth=0)
        top += _RANK_GAP
    axes.set_ylim(top - _RANK_GAP + 0.1, -0.1)
    axes.set_yticks(list(ticks), ticks.values())
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(rf"$\bf{{{panel.label}}}$   {panel.caption}")


def _draw_lane(axes: Any, panel: Panel, events: Sequence[Event], top: float, start_ns: int) -> None:
    """Boxes of one colour at once, and the numbers of computes that have the room."""
    boxes: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        start, length = event.start_ns - start_ns, event.end_ns - event.start_ns
        boxes[category(event), panel.chunk(event) % 2].append((start, length))
        number = str(event.instruction.subsequence)
        fits = length > _DIGIT_SHARE * len(number) * axes.get_xlim()[1]
        if event.lane == "compute" and panel.names_lanes and fits:
            middle = (start + length / 2, top + 0.5)
            axes.text(*middle, number, color=style.PAPER, fontsize=6.5, ha="center", va="center")
    for (name, shade), spans in boxes.items():
        colour = style.INSTRUCTIONS[name][shade]
        height = _HEIGHTS[events[0].lane]
        inset = (0.24 if name == _LOW else 0.08) * height
        # Copies and messages are too short to be seen without an edge in their own colour.
        edge = {"edgecolors": colour, "linewidth": 0.5}
        if events[0].lane == "compute":
            edge = {"edgecolors": style.PAPER, "linewidth": 0.35 if panel.names_lanes else 0.0}
        label = f"{name} (low)" if name == _LOW else name
        axes.broken_barh(
            spans,
            (top + inset, height - 2 * inset),
            facecolors=colour,
            label="" if shade else label,
            **edge,
        )

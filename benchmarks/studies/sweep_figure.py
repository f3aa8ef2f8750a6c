"""A sweep as a line chart: step time against the device limit, or tokens per second against
sequences a step. A value without a number is a cross with its word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.reporting.style import COLOURS, FAILED, FAINT, INK, OTHER
from benchmarks.reporting.tables import Summary
from benchmarks.studies.sweep import Quantity, SweepPoint
from benchmarks.studies.sweep_report import NAMES
from sppo.config.sizes import MIB

_MARKERS = ("o", "s", "D", "^")
_CROSS_ROW = 0.055
"""Of the height of the plot, between the rows of crosses at its foot."""


def line_chart(
    quantity: Quantity, found: Sequence[SweepPoint], path: Path, *, title: str, caption: str
) -> None:
    """Write a PNG. Whiskers are quartiles."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8.0, 4.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    places = _places(quantity, found)
    order = sorted(range(len(found)), key=lambda index: places[index])
    systems = [row.row for row in found[0].rows]
    for number, system in enumerate(systems):
        rows = [found[index].rows[number] for index in order]
        _draw_line(axes, quantity, [places[index] for index in order], rows, system, number)
    _axes(axes, quantity, found, places)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    figure.suptitle(title, x=0.012, ha="left", color=INK, fontsize=12, fontweight="bold")
    figure.text(0.012, 0.0, f"measured · {caption}", color=FAINT, fontsize=7.5, va="bottom")
    figure.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))
    figure.savefig(path, facecolor="white")


def _places(quantity: Quantity, found: Sequence[SweepPoint]) -> list[float]:
    """Where a value lies on the axis; "no limit" right of all limits, with a gap."""
    if quantity == "sequences-per-step":
        return [float(range_index) for range_index in _ranks(found)]
    limits = [m.device_memory_bytes / MIB for m in found if m.device_memory_bytes is not None]
    high, low = max(limits, default=1.0), min(limits, default=0.0)
    beyond = high + max(0.14 * (high - low), 0.05 * high)
    return [beyond if m.device_memory_bytes is None else m.device_memory_bytes / MIB for m in found]


def _ranks(found: Sequence[SweepPoint]) -> list[int]:
    counts = sorted({measured.sequences_per_step for measured in found})
    return [counts.index(measured.sequences_per_step) for measured in found]


def _height(quantity: Quantity, row: Summary) -> tuple[float, float, float] | None:
    """Median, low and high of what is drawn; None where the row has no number."""
    if quantity == "device-memory":
        spread = row.step_seconds
        return None if spread is None else (spread.median, spread.low, spread.high)
    rate = row.tokens_per_second_per_rank
    return None if rate is None else (rate.median, rate.low, rate.high)


def _draw_line(
    axes: Any,
    quantity: Quantity,
    places: Sequence[float],
    rows: Sequence[Summary],
    system: str,
    number: int,
) -> None:
    colour = COLOURS.get(rows[0].system, OTHER)
    drawn = [
        (place, height)
        for place, row in zip(places, rows, strict=True)
        if (height := _height(quantity, row)) is not None
    ]
    axes.errorbar(
        [place for place, _ in drawn],
        [median for _, (median, _, _) in drawn],
        yerr=[
            [median - low for _, (median, low, _) in drawn],
            [high - median for _, (median, _, high) in drawn],
        ],
        color=colour,
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=5.5,
        linewidth=2.2 if rows[0].system == "sppo" else 1.6,
        elinewidth=1.0,
        capsize=2.5,
        label=system,
        zorder=3 if rows[0].system == "sppo" else 2,
    )
    foot = 0.04 + _CROSS_ROW * number
    for place, row in zip(places, rows, strict=True):
        if _height(quantity, row) is not None:
            continue
        across = axes.get_xaxis_transform()
        axes.plot(
            place,
            foot,
            "x",
            transform=across,
            color=colour,
            markersize=8,
            markeredgewidth=2.4,
            clip_on=False,
        )
        axes.annotate(
            row.status,
            xy=(place, foot),
            xycoords=across,
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=FAILED,
            fontsize=8,
        )


def _axes(
    axes: Any, quantity: Quantity, found: Sequence[SweepPoint], places: Sequence[float]
) -> None:
    heights = [
        height
        for measured in found
        for row in measured.rows
        if (height := _height(quantity, row)) is not None
    ]
    low = min((height[1] for height in heights), default=0.0)
    high = max((height[2] for height in heights), default=1.0)
    room = max(high - low, 0.05 * high)
    crosses = any(_height(quantity, row) is None for m in found for row in m.rows)
    foot = (0.35 if crosses else 0.12) * room
    axes.set_ylim(max(0.0, low - foot), high + 0.12 * room)
    axes.margins(x=0.09)
    names = [
        "no limit"
        if quantity == "device-memory" and m.device_memory_bytes is None
        else f"{m.device_memory_bytes / MIB:g}"
        if quantity == "device-memory" and m.device_memory_bytes is not None
        else str(m.sequences_per_step)
        for m in found
    ]
    axes.set_xticks(list(places), names)
    unit = ", MiB" if quantity == "device-memory" else ""
    axes.set_xlabel(f"{NAMES[quantity]}{unit}", color=FAINT, fontsize=9)
    what = (
        "step seconds (median; whiskers: quartiles), lower is better"
        if quantity == "device-memory"
        else "tokens per second and rank (median; whiskers: quartiles)"
    )
    axes.set_title(what, loc="left", color=FAINT, fontsize=9)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#d1d5db")

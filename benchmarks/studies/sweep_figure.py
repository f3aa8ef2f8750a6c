"""A sweep as a line chart: step time by device limit, or tokens per second by sequences a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records.metrics import Spread
from benchmarks.reporting import style
from benchmarks.reporting.tables import Summary
from benchmarks.studies.sweep import Quantity, SweepPoint
from benchmarks.studies.sweep_report import NAMES, value_words
from sppo.config.sizes import length_name
from sppo.config.workload import Workload

_SHIFT = 0.05
"""Of the distance of two values, between the points of two systems: no whisker hides another."""
_STATUS_ROW = 0.07
"""Of the height of the plot: a row of statuses, above all points."""


def line_chart(
    workload: Workload,
    quantity: Quantity,
    results: Sequence[SweepPoint],
    origin: Mapping[str, Any],
    path: Path,
) -> None:
    """Write a PNG: a line a system. A value without a number has its status in words.

    `origin`: see `provenance.origin`. Raises OSError.
    """
    results = sorted(results, key=_order)
    lines = list(zip(*(result.rows for result in results), strict=True))
    title = f"{workload.name}: {length_name(workload.sequence_tokens)} tokens, {NAMES[quantity]}"
    values = "step, seconds (median; whiskers: quartiles); lower is better"
    if quantity == "sequences-per-step":
        title += f", {style.limit_words(results[0].device_memory_bytes)}"
        values = "tokens per second and rank (median; whiskers: quartiles)"
    source = style.source("measured", origin)
    with style.page(path, title=title, source=source, inches=(8.0, 4.6)) as figure:
        axes = figure.add_subplot()
        failing = [line for line in lines if not all(_spread(quantity, row) for row in line)]
        for number, line in enumerate(lines):
            _draw_line(axes, quantity, line, _SHIFT * (number - (len(lines) - 1) / 2))
        for number, line in enumerate(failing):
            _draw_statuses(axes, quantity, line, 1 - _STATUS_ROW * (number + 0.5))
        ticks = [value_words(quantity, result) for result in results]
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.4, len(ticks) - 0.6)
        spreads = [_spread(quantity, row) for line in lines for row in line]
        highest = max((spread.high for spread in spreads if spread), default=1.0)
        axes.set_ylim(0, 1.08 * highest / (1 - _STATUS_ROW * len(failing)))
        axes.set_xlabel(f"{NAMES[quantity]}; values evenly spaced")
        axes.set_title(values, color=style.FAINT)


def _order(result: SweepPoint) -> tuple[float, int]:
    """No limit comes last."""
    return result.device_memory_bytes or float("inf"), result.sequences_per_step


def _spread(quantity: Quantity, row: Summary) -> Spread | None:
    """What is drawn; None where the row has no number."""
    return row.step_seconds if quantity == "device-memory" else row.tokens_per_second_per_rank


def _draw_line(axes: Any, quantity: Quantity, line: Sequence[Summary], shift: float) -> None:
    spreads = [_spread(quantity, row) for row in line]
    points = [(place + shift, spread) for place, spread in enumerate(spreads) if spread]
    below = [spread.median - spread.low for _, spread in points]
    above = [spread.high - spread.median for _, spread in points]
    _, colour, marker, _ = style.look(line[0].system)
    axes.errorbar(
        [place for place, _ in points],
        [spread.median for _, spread in points],
        yerr=[below, above],
        color=colour,
        marker=marker,
        elinewidth=1.0,
        capsize=2.5,
        label=line[0].row,
    )


def _draw_statuses(axes: Any, quantity: Quantity, line: Sequence[Summary], height: float) -> None:
    """The system's marker, hollow, and the status; `height`: a share of the plot's."""
    across = axes.get_xaxis_transform()
    _, colour, marker, _ = style.look(line[0].system)
    hollow = {"color": colour, "marker": marker, "markerfacecolor": style.PAPER}
    beside = {"xycoords": across, "xytext": (7, 0), "failed": True}
    for place, row in enumerate(line):
        if _spread(quantity, row) is None:
            axes.plot(place, height, transform=across, **hollow)
            style.words(axes, f"✕ {row.status}", (place, height), **beside)

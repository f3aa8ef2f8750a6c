"""The comparison as a bar chart: tokens per second and rank, by row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import tables
from benchmarks.reporting.style import COLOURS, FAILED, FAINT, INK, OTHER
from benchmarks.reporting.tables import Summary
from sppo.config.sizes import format_bytes, length_name


def bar_chart(records: Sequence[Record], path: Path) -> None:
    """Write a PNG. Whiskers are quartiles; a row without a number is a cross with its word."""
    from matplotlib.figure import Figure

    rows = tables.summaries(records)
    figure = Figure(figsize=(8.0, 1.75 + 0.62 * max(len(rows), 1)), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    rates = [row.tokens_per_second_per_rank for row in rows]
    fastest = max((rate.high for rate in rates if rate is not None), default=1.0)
    for position, row in enumerate(rows):
        _draw(axes, position, row, fastest)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1.34 * fastest)
    caption = "tokens per second and rank (median; whiskers: quartiles)"
    axes.set_xlabel(caption, color=FAINT, fontsize=8.5, loc="left")
    axes.tick_params(axis="x", colors=FAINT, labelsize=8, length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#d1d5db")
    _title(figure, records)
    figure.savefig(path, facecolor="white")


def _draw(axes: Any, position: int, row: Summary, fastest: float) -> None:
    """One row: its name, then a bar and its numbers, or a cross and its word."""
    settings = textwrap.wrap(row.settings, 34, max_lines=2, placeholder=" …")
    lift = 5 * len(settings) - 4
    for text, height, colour, size, anchor in (
        (row.row, lift, INK, 10, "baseline"),
        ("\n".join(settings), lift - 4, FAINT, 7.5, "top"),
    ):
        axes.annotate(
            text,
            xy=(0, position),
            xycoords=("axes fraction", "data"),
            xytext=(-8, height),
            textcoords="offset points",
            ha="right",
            va=anchor,
            color=colour,
            fontsize=size,
        )
    rate = row.tokens_per_second_per_rank
    if rate is None:
        _draw_cross(axes, position, row.status)
        return
    axes.barh(position, rate.median, height=0.56, color=COLOURS.get(row.system, OTHER))
    axes.errorbar(
        rate.median,
        position,
        xerr=[[rate.median - rate.low], [rate.high - rate.median]],
        color=INK,
        elinewidth=1.1,
        capsize=3,
        capthick=1.1,
    )
    words = f"{rate.median:,.0f}"
    if row.sppo_speed_up is not None and row.system != "sppo":
        words += f"   (SPPO: {row.sppo_speed_up:.2f}x)"
    axes.text(rate.high + 0.018 * fastest, position, words, color=INK, va="center", fontsize=9)


def _draw_cross(axes: Any, position: int, word: str) -> None:
    """A row that has no number: its end is a result too."""
    from matplotlib.transforms import offset_copy

    beside = offset_copy(axes.transData, axes.figure, x=9, units="points")
    axes.plot(0, position, "x", transform=beside, color=FAILED, markersize=8, markeredgewidth=2.2)
    axes.annotate(
        word,
        xy=(0, position),
        xytext=(19, 0),
        textcoords="offset points",
        va="center",
        color=FAILED,
        fontsize=10,
        fontweight="bold",
    )


def _title(figure: Any, records: Sequence[Record]) -> None:
    record = next((r for r in records if r.system != "reference"), records[0])
    workload = record.workload
    limit_bytes = record.device_memory_bytes
    limit = "no memory limit" if limit_bytes is None else f"{format_bytes(limit_bytes)} a rank"
    head = f"{workload.name}: {length_name(workload.sequence_tokens)} tokens, {limit}"
    where = f"{provenance.machine(record)} · {provenance.commit(record)} · {record.started[:10]}"
    figure.suptitle(head, x=0.012, ha="left", color=INK, fontsize=12, fontweight="bold")
    figure.text(0.012, 0.0, f"measured · {where}", color=FAINT, fontsize=7.5, va="bottom")
    figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))

"""The comparison as a bar chart: tokens per second and rank, by row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.reporting import style, tables
from benchmarks.reporting.tables import Summary
from sppo.config.sizes import length_name
from sppo.config.workload import Workload


def bar_chart(records: Sequence[Record], path: Path) -> None:
    """Write the PNG of a run's records: a bar a row. Raises OSError."""
    record = next((r for r in records if r.system != "reference"), records[0])
    draw_rows(
        tables.summaries(records),
        path,
        title=title(record.workload, record.device_memory_bytes),
        source=style.source("measured", provenance.origin(record)),
    )


def title(workload: Workload, device_memory_bytes: int | None) -> str:
    """ "tiny-cpu: gpt-tiny, 4,096 tokens, 136.0 MiB a rank"."""
    length = length_name(workload.sequence_tokens)
    limit = style.limit_words(device_memory_bytes)
    return f"{workload.name}: {workload.model.name}, {length} tokens, {limit}"


def draw_rows(rows: Sequence[Summary], path: Path, *, title: str, source: str) -> None:
    """Write the PNG. Whiskers are quartiles; a row without a number has its status in words."""
    inches = (8.0, 1.4 + 0.6 * max(len(rows), 1))
    with style.page(path, title=title, source=source, inches=inches) as figure:
        axes = figure.add_subplot()
        rates = [row.tokens_per_second_per_rank for row in rows]
        fastest = max((rate.high for rate in rates if rate is not None), default=1.0)
        for position, row in enumerate(rows):
            _draw(axes, position, row)
        _name_rows(axes, rows)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(0, 1.5 * fastest)
        axes.set_xlabel("tokens per second and rank (median; whiskers: quartiles)")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", integer=True)
        axes.grid(visible=False)


def _name_rows(axes: Any, rows: Sequence[Summary]) -> None:
    """Left of a bar its row, and below in small letters the settings."""
    settings = [textwrap.fill(row.settings, 36, max_lines=2, placeholder=" …") for row in rows]
    names, places = [row.row for row in rows], range(len(rows))
    axes.yaxis.remove_overlapping_locs = False
    axes.set_yticks(places, names, color=style.INK, fontsize=9.5, va="bottom")
    axes.set_yticks(places, settings, minor=True, fontsize=style.NUMBER_SIZE, va="top")


def _draw(axes: Any, position: int, row: Summary) -> None:
    """A bar with its numbers, or how the row ended."""
    rate = row.tokens_per_second_per_rank
    if rate is None:
        style.words(axes, f"✕ {row.status}", (0, position), xytext=(6, 0), failed=True, fontsize=9)
        return
    axes.barh(position, rate.median, height=0.56, **style.bar(row.system))
    spread = [[rate.median - rate.low], [rate.high - rate.median]]
    axes.errorbar(rate.median, position, xerr=spread, color=style.INK, elinewidth=1.1, capsize=3)
    numbers = f"{rate.median:,.0f}"
    if row.sppo_speed_up is not None and row.system != "sppo":
        numbers += f"   (SPPO: {row.sppo_speed_up:.2f}x as fast)"
    if row.timing == "unsettled":
        numbers += "   (unsettled: no ratio)"
    style.words(axes, numbers, (rate.high, position), xytext=(8, 0), fontsize=9)

"""A measured figure as text for a terminal."""

from __future__ import annotations

from benchmarks.paper.miniature.result import (
    LongestPlace,
    MeasuredFigure,
    MeasuredPlace,
    MeasuredRatio,
    MeasuredRow,
)
from benchmarks.reporting.tables import size_words, spread_words
from benchmarks.reporting.text_table import NO_NUMBER, Column, interval, text_table
from benchmarks.studies import longest_result
from sppo.config.sizes import length_name, limit_words

COLUMNS: tuple[Column[MeasuredRow], ...] = (
    ("row", lambda row: row.summary.row),
    ("settings", lambda row: row.summary.settings or NO_NUMBER),
    ("status", lambda row: row.summary.status),
    ("timing", lambda row: row.summary.timing or NO_NUMBER),
    ("step s, median [quartiles]", lambda row: spread_words(row.summary.step_seconds)),
    ("peak device", lambda row: size_words(row.summary.tracked_peak_bytes)),
)


def text(measured: MeasuredFigure) -> str:
    """Heading, a table for every place, and what is missing."""
    parts = [f"fig. {measured.figure} in miniature: measured on {measured.measured_on}"]
    parts += [
        f"{place.place}: {place_words(place)}\n{text_table(COLUMNS, place.rows)}"
        for place in measured.places
    ]
    parts += [
        f"{place.place}: {place_words(place)}\n{longest_result.table(place.rows)}"
        for place in measured.longest
    ]
    if measured.missing:
        parts.append(f"not measured yet: {', '.join(measured.missing)}")
    return "\n\n".join(parts)


def place_words(place: MeasuredPlace | LongestPlace) -> str:
    """ "tiny-cpu, 4,096 tokens, 2 ranks, device memory: 136.0 MiB"."""
    words = [place.workload]
    if isinstance(place, MeasuredPlace):
        words.append(f"{length_name(place.sequence_tokens)} tokens")
    words.append(f"{place.ranks} rank{'s' if place.ranks > 1 else ''}")
    words.append(f"device memory: {limit_words(place.device_memory_bytes)}")
    return ", ".join(words)


def ratio_words(ratio: MeasuredRatio) -> str:
    """ "1.21x [1.17, 1.26]", or why no ratio is claimed."""
    if ratio.ratio is None:
        return f"not claimed: {ratio.reason}" if ratio.reason else NO_NUMBER
    return interval(ratio.ratio, ratio.low, ratio.high)

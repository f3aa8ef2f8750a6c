"""The history as text: a line for each series, and the points of a single one."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.regression.history.changes import LEAST_POINTS
from benchmarks.regression.history.series import Series
from benchmarks.reporting.text_table import NO_NUMBER, Column, rows_table, text_table
from sppo.config.sizes import format_bytes

NANO, MICRO, MILLI = 1e-9, 1e-6, 1e-3


def value_words(value: float, unit: str) -> str:
    """ "1.488 s", "12.3 ms", "127.8 MiB", "1.28x", "5.28 %" or a plain number."""
    if unit == "ns":
        return value_words(value * NANO, "s")
    if unit == "s":
        for scale, name in ((1.0, "s"), (MILLI, "ms"), (MICRO, "us")):
            if value >= scale:
                return f"{value / scale:.4g} {name}"
        return f"{value / NANO:.4g} ns"
    if unit == "bytes" and value >= 1024:
        return format_bytes(int(value))
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit == "ratio":
        return f"{value:.3f}x"
    return f"{value:,.6g} {unit}" if unit != "count" else f"{value:,.15g}"


def verdict(series: Series) -> str:
    """What the newest segment says, in words."""
    last = series.segments[-1]
    suspect = series.suspect
    if len(last.judged) < LEAST_POINTS and not series.metric.exact:
        return f"too few points: {len(last.judged)} of {LEAST_POINTS}"
    changes = series.changes(last)
    if suspect is not None:
        word = "worse" if series.is_worse(suspect) else "better"
        return f"newest point {word} by {abs(suspect):.1%}: not yet two in a row"
    if not changes:
        return "no change since the break" if last.broken_by else "no change"
    point, change = changes[-1]
    word = "worse" if series.is_worse(change.after - change.before) else "better"
    size = NO_NUMBER if change.share is None else f"{abs(change.share):.1%}"
    return f"{word} by {size} since {point.entry.commit_name}"


def summary_table(all_series: Sequence[Series]) -> str:
    """A line for each series."""
    return text_table(COLUMNS, all_series, "llrrrl")


def _points(series: Series) -> str:
    void = len([point for point in series.points if point.void])
    return f"{len(series.points)} ({void} void)" if void else str(len(series.points))


def _newest(series: Series) -> str:
    judged = [point for point in series.points if not point.void]
    return value_words(judged[-1].metric.value, series.metric.unit) if judged else NO_NUMBER


COLUMNS: tuple[Column[Series], ...] = (
    ("metric", lambda series: series.name),
    ("machine", lambda series: series.machine),
    ("points", _points),
    ("breaks", lambda series: str(len(series.segments) - 1)),
    ("newest", _newest),
    ("verdict", verdict),
)


def point_table(series: Series) -> str:
    """Every point of a series; breaks and changes stand where they happened."""
    rows = []
    for segment in series.segments:
        if segment.broken_by:
            rows.append(["", "", "", f"--- not comparable: {segment.broken_by}"])
        notes = {
            id(point): f"from {value_words(change.before, series.metric.unit)}: "
            + ("worse" if series.is_worse(change.after - change.before) else "better")
            for point, change in series.changes(segment)
        }
        for point in segment.points:
            note = f"void: {point.void}" if point.void else notes.get(id(point), "")
            value = value_words(point.metric.value, series.metric.unit)
            rows.append([point.entry.date[:19], point.entry.commit_name, value, note])
    return rows_table(["date", "commit", series.name, "note"], rows, "llrl")

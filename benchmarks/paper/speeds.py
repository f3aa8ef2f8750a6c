"""Simulated steps of all rows at the paper's points, beside SPPO's step at the same point.

A ratio may come from idle pipeline stages alone, where a step has few sequences. So a second ratio
leaves out the idle time of both systems.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper.verdicts import Verdict
from benchmarks.records.record import group_by
from benchmarks.reporting.text_table import Column, number, percent, text_table

NOTE = (
    "Simulated times of emulated counts. Exposed: messages take their time. Hidden: no message "
    "takes time. Above 1 SPPO is faster; without idle time: the idle share of both steps is left "
    "out"
)


def text(verdicts: Sequence[Verdict]) -> str:
    """The table with its note; "" where SPPO has no simulated step at any point."""
    reference = sppo_steps(verdicts)
    shown = [row for row in verdicts if point_of(row) in reference]
    if not shown:
        return ""
    return f"{text_table(_columns(reference), shown)}\n\n{NOTE}."


def point_of(row: Verdict) -> tuple[str, str, int]:
    """Model, length and number of GPUs."""
    return row.model, row.seq, row.gpus


def sppo_steps(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, int], Verdict]:
    """SPPO's fitting verdict with a simulated step, by point."""
    return {
        point: row
        for point, rows in group_by(verdicts, point_of).items()
        for row in rows
        if row.system == "sppo" and has_step(row)
    }


def has_step(row: Verdict) -> bool:
    """Whether the row fits and its step is simulated."""
    return row.status == "ok" and row.step_seconds is not None


def exposed_ratio(row: Verdict, sppo: Verdict) -> float | None:
    """The row's step over SPPO's; None without a step that fits."""
    if not has_step(row) or row is sppo:
        return None
    return _over(row.step_seconds, sppo.step_seconds)


def hidden_ratio(row: Verdict, sppo: Verdict) -> float | None:
    """The same of steps whose messages take no time."""
    if not has_step(row) or row is sppo:
        return None
    return _over(row.step_seconds_if_hidden, sppo.step_seconds_if_hidden)


def bubble_free_ratio(row: Verdict, sppo: Verdict) -> float | None:
    """The same of steps without their idle share."""
    if not has_step(row) or row is sppo:
        return None
    return _over(_busy_seconds(row), _busy_seconds(sppo))


def _busy_seconds(row: Verdict) -> float | None:
    if row.step_seconds is None or row.idle_share is None:
        return None
    return row.step_seconds * (1 - row.idle_share)


def _over(seconds: float | None, sppo_seconds: float | None) -> float | None:
    return None if seconds is None or not sppo_seconds else seconds / sppo_seconds


def _columns(reference: dict[tuple[str, str, int], Verdict]) -> tuple[Column[Verdict], ...]:
    def seconds(row: Verdict, value: float | None) -> str:
        return number(value, "{:.1f} s") if has_step(row) else row.status

    def over(ratio: float | None) -> str:
        return number(ratio, "{:.2f}x")

    return (
        ("model", lambda row: f"{row.model}, {row.gpus} GPUs"),
        ("tokens", lambda row: row.seq),
        ("system", lambda row: row.rule_name),
        ("reading", lambda row: row.reading_words),
        ("layout", lambda row: row.settings_text),
        ("step, exposed", lambda row: seconds(row, row.step_seconds)),
        ("step, hidden", lambda row: seconds(row, row.step_seconds_if_hidden)),
        ("idle", lambda row: percent(row.idle_share)),
        ("SPPO faster by", lambda row: over(exposed_ratio(row, reference[point_of(row)]))),
        ("hidden", lambda row: over(hidden_ratio(row, reference[point_of(row)]))),
        ("without idle time", lambda row: over(bubble_free_ratio(row, reference[point_of(row)]))),
    )

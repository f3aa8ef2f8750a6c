"""The paper's boundaries beside emulated verdicts: tables, agreement and disagreements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.emulation.result import KINDS
from benchmarks.emulation.tables import size
from benchmarks.paper import speeds
from benchmarks.paper.reported import LARGE_MODEL
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict
from benchmarks.records.provenance import commit_words, library_words
from benchmarks.records.record import group_by
from benchmarks.reporting.text_table import Column, bullet, text_table
from sppo.config.sizes import length_name

AGREES = {True: "yes", False: "NO", None: ""}

REASON_CHARACTERS = 120
"""A longer reason is cut in the table."""


def text(figure: PaperPoints) -> str:
    """Header, tables, agreement and the accuracy of SPPO's plans, for a terminal and a file."""
    parts = [header(figure)]
    if figure.verdicts:
        parts.append(text_table(verdict_columns(figure.label), figure.verdicts))
        parts += [
            f"{agreement(figure)}.",
            "\n".join(f"{line}." for line in _disagreements(figure)),
            speeds.text(figure.verdicts),
        ]
    if figure.longest:
        table = text_table(longest_columns(figure.label, figure.step_tokens), figure.longest)
        parts.append(f"{LARGE_MODEL}, longest sequence\n\n{table}")
    parts.append(plan_accuracy(figure))
    return "\n\n".join(part for part in parts if part)


def header(figure: PaperPoints) -> str:
    """Hardware, sequences per step, versions, commit and layout rules."""
    count = figure.sequences_per_step
    lines = [
        f"{figure.label}: the paper's memory boundaries, {figure.hardware}, {count} "
        f"sequence{'s' if count > 1 else ''} a step at every point, bfloat16",
        "",
        bullet(f"{library_words(figure.environment)}; {commit_words(figure.environment)}"),
        *(bullet(f"{name}: {rule}") for name, rule in figure.rules.items()),
        *(bullet(words) for words in [_search_words(figure)] if words),
    ]
    return "\n".join(lines)


def _search_words(figure: PaperPoints) -> str:
    """How many rows at their best are answers of committed searches; "" if none is."""
    best = [row for row in figure.verdicts if row.at_best]
    answers = sum(bool(row.search_file) for row in best)
    if not answers:
        return ""
    return (
        f"{answers} of {len(best)} rows at their best: answers of committed searches, emulated "
        "anew (`search_file` of the JSON)"
    )


def verdict_columns(label: str) -> tuple[Column[Verdict], ...]:
    """The columns of fig. 1 and 10."""
    return (
        ("model", lambda row: f"{row.model}, {row.gpus} GPUs"),
        ("tokens", lambda row: row.seq),
        ("system", lambda row: row.rule_name),
        ("reading", lambda row: row.reading_words),
        ("layout", lambda row: row.settings_text),
        (label, lambda row: row.status),
        ("device peak", lambda row: size(row.peak_device_bytes)),
        ("host peak", lambda row: size(row.peak_host_bytes or None)),
        ("roles run", lambda row: _of(row.roles_emulated, row.roles)),
        ("paper", lambda row: row.paper_outcome or "-"),
        ("agree", lambda row: AGREES[row.agrees]),
    )


def longest_columns(label: str, step_tokens: int) -> tuple[Column[LongestVerdict], ...]:
    """The columns of fig. 12."""
    return (
        ("GPUs", lambda row: str(row.gpus)),
        ("system", lambda row: row.rule_name),
        ("reading", lambda row: row.reading_words),
        ("layout", lambda row: row.settings_text),
        (f"longest, {label}", lambda row: _length(row.longest_tokens, "none")),
        ("paper (fig. 12)", _paper_length),
        ("against it", _over_the_paper),
        ("device peak", lambda row: _range(row.peak_device_bytes.values())),
        ("host peak", lambda row: _range(row.peak_host_bytes.values())),
        ("roles run", lambda row: _of(len(row.peak_device_bytes), row.roles)),
        (f"{length_name(step_tokens)} more", _why_no_more),
    )


def _length(tokens: int | None, without: str) -> str:
    return length_name(tokens) if tokens else without


def _paper_length(row: LongestVerdict) -> str:
    return "" if row.paper_tokens is None else _length(row.paper_tokens, "cannot run")


def _over_the_paper(row: LongestVerdict) -> str:
    return f"{row.longest_tokens / row.paper_tokens:.2f}x" if row.paper_tokens else ""


def _why_no_more(row: LongestVerdict) -> str:
    reason = (row.unanswered or row.beyond or "not asked").partition(";")[0]
    if len(reason) <= REASON_CHARACTERS:
        return reason
    return reason[: REASON_CHARACTERS - 3] + "..."


def _of(emulated: int, roles: int) -> str:
    return f"{emulated} of {roles}" if roles else ""


def _range(peaks: Iterable[int]) -> str:
    """The least and the largest peak that is not 0."""
    present = [peak for peak in peaks if peak]
    if not present:
        return ""
    return " to ".join(dict.fromkeys((size(min(present)), size(max(present)))))


def agreement(figure: PaperPoints) -> str:
    """How many verdicts agree with the paper: in all, by system, and at whole points.

    Counted are the rows that count, where the paper is not silent and no role broke.
    """
    counted = [row for row in figure.verdicts if row.counted and row.agrees is not None]
    if not counted:
        return "the paper is silent on these rows"
    by_system = group_by(counted, lambda row: row.rule_name)
    by_point = group_by(counted, lambda row: (row.model, row.seq))
    systems = ", ".join(
        f"{name} {_agreeing(rows)} of {len(rows)}" for name, rows in by_system.items()
    )
    whole = sum(_agreeing(rows) == len(rows) for rows in by_point.values())
    return (
        f"agree with the paper: {_agreeing(counted)} of {len(counted)} verdicts ({systems}). All "
        f"systems agree at {whole} of {len(by_point)} points"
    )


def _agreeing(rows: Iterable[Verdict]) -> int:
    return sum(bool(row.agrees) for row in rows)


def plan_accuracy(figure: PaperPoints) -> str:
    """SPPO's predictions against the counts; "" if no SPPO plan was emulated."""
    plans = [row.planned for row in figure.verdicts] + [row.planned for row in figure.longest]
    numbers = [number for plan in plans for number in plan]
    if not numbers:
        return ""
    roles = sum(len({number.rank for number in plan}) for plan in plans)
    peaks = [
        number.planned / number.counted - 1
        for number in numbers
        if number.quantity == "peak_device_bytes"
    ]
    rest = [number for number in numbers if number.quantity != "peak_device_bytes"]
    wrong = [number for number in rest if number.planned != number.counted]
    exact = f"{len(wrong)} of {len(rest)} numbers NOT exact" if wrong else "exact"
    return (
        f"SPPO's plans beside the counts of {roles} roles: saved tensors with KV and dKV, KV, "
        f"dKV, host tier, copies, messages and collectives {exact}; device peak "
        f"{min(peaks):+.2%} to {max(peaks):+.2%}"
    )


def _disagreements(figure: PaperPoints) -> Iterator[str]:
    """The fullest role's bytes by kind, and the bytes that separate the two outcomes."""
    for row in figure.verdicts:
        place = f"- {row.model}, {row.seq}, {row.rule_name}"
        if row.agrees is None and row.paper_outcome is not None:
            yield f"{place}: no verdict, {row.status}: {row.reason}"
        if row.agrees is not False:
            continue
        place = f"{place}: the paper says {row.paper_outcome}"
        if row.status not in ("ok", "oom") or not row.peak_device_bytes or not row.capacity_bytes:
            yield f"{place}; {row.status}: {row.reason}"
            continue
        kinds = ", ".join(
            f"{kind} {size(row.at_peak_by_kind_bytes[kind])}"
            for kind in KINDS
            if row.at_peak_by_kind_bytes.get(kind)
        )
        excess = row.peak_device_bytes - row.capacity_bytes
        word = "too much" if excess > 0 else "to spare"
        yield f"{place}; {size(abs(excess))} {word} in {row.limiting_role}. At the peak: {kinds}"

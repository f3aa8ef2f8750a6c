"""The comparison as a table, from records alone: Markdown for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from benchmarks.job import Status
from benchmarks.records import equal_work, metrics
from benchmarks.records.metrics import Spread
from benchmarks.records.provenance import is_crowded, measured_on
from benchmarks.records.record import Record, grouped
from benchmarks.reporting import predicted_vs_counted
from benchmarks.reporting.text_table import NO_NUMBER, Column, number, percent, text_table
from sppo.config.sizes import format_bytes, length_name

COMPARED_SYSTEM = "sppo"
"""The system whose step time the column "SPPO faster by" compares with."""

_SEVERITY: tuple[Status, ...] = get_args(Status)
_NOT_RUN: tuple[Status, ...] = ("infeasible", "unavailable")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row over all its launches. It has numbers only if all launches have status ok."""

    row: str
    system: str
    settings: str
    grid: str
    status: Status
    reason: str
    launches: int
    launches_ok: int
    step_seconds: Spread | None = None
    tokens_per_second_per_rank: Spread | None = None
    sppo_speed_up: float | None = None
    mfu_causal: float | None = None
    tracked_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    final_loss: float | None = None
    label: str = "measured"


def summaries(records: Sequence[Record]) -> list[Summary]:
    """One summary per row, in the order of the first launch, without the reference."""
    sppo = [record for record in records if record.system == COMPARED_SYSTEM]
    return [_summary(launches, sppo) for launches in grouped(records, "row").values()]


def _summary(launches: Sequence[Record], sppo: Sequence[Record]) -> Summary:
    worst = min(launches, key=lambda record: _SEVERITY.index(record.status))
    summary = Summary(
        row=worst.row,
        system=worst.system,
        settings=worst.settings_text,
        grid=worst.grid,
        status=worst.status,
        reason=worst.reason,
        launches=len(launches),
        launches_ok=sum(record.status == "ok" for record in launches),
        label=NO_NUMBER if worst.status in _NOT_RUN else "measured",
    )
    return summary if worst.status != "ok" else _with_numbers(summary, launches, sppo)


def _with_numbers(summary: Summary, launches: Sequence[Record], sppo: Sequence[Record]) -> Summary:
    last = launches[-1]
    step = metrics.spread(
        [seconds for record in launches for seconds in metrics.measured_seconds(record.steps)]
    )
    seconds = None if step is None else step.median
    comparable = last.tuned and not is_crowded(last)
    return replace(
        summary,
        step_seconds=step,
        tokens_per_second_per_rank=rate(last.tokens_per_step / last.ranks, step),
        sppo_speed_up=metrics.speed_up(launches, sppo) if comparable else None,
        mfu_causal=metrics.utilisation(last.flops.causal, seconds, last.ranks, last.peak),
        tracked_peak_bytes=metrics.largest_bytes(launches, "tracked_peak_bytes"),
        host_peak_bytes=metrics.largest_bytes(launches, "host_peak_bytes"),
        final_loss=last.steps[-1].loss if last.steps else None,
    )


def rate(tokens_per_rank: float, step: Spread | None) -> Spread | None:
    """Tokens per second of a rank; None without a time."""
    if step is None:
        return None
    return Spread(
        median=tokens_per_rank / step.median,
        low=tokens_per_rank / step.high,
        high=tokens_per_rank / step.low,
    )


def _rows(records: Sequence[Record]) -> list[Record]:
    """The records without the reference; the reference alone where there is nothing else."""
    return [record for record in records if not record.is_reference] or list(records)


def header(records: Sequence[Record]) -> list[str]:
    """Workload, machine, commit, limit and equal work: one fact a line."""
    record = _rows(records)[0]
    workload, cluster = record.workload, record.workload.cluster
    count = workload.sequences_per_step
    sequences = "one sequence" if count == 1 else f"{count} sequences"
    length = length_name(workload.sequence_tokens)
    lines = [
        f"{workload.name}: {workload.model.name}, {sequences} of {length} tokens per step, "
        f"{cluster.ranks} ranks ({cluster.hardware}), {workload.dtype}",
        f"measured on {measured_on(record)}",
        f"device memory: {_limit(_rows(records))}",
        *_data_words(record),
    ]
    if is_crowded(record):
        cores = record.environment["cores"]
        shared = f"{record.ranks} ranks shared {cores} cores"
        lines.append(f"{shared}: times and rates are NO result here")
    return [*lines, *_equal_work(records)]


def _data_words(record: Record) -> list[str]:
    """The data of the user, in a line; none for the suite's own and in older records."""
    text = record.text
    if text is None or text.tokens_read is None:
        return []
    if (text.file, text.tokenizer) == ("stdlib", "bytes"):
        return []
    crossed = text.documents_crossed
    documents = "" if crossed is None else f", {crossed:,} passages to the next document"
    return [f"data: {text.description}; {text.tokens_read:,} tokens read{documents}"]


def _limit(rows: Sequence[Record]) -> str:
    limit_bytes = rows[0].device_memory_bytes
    if limit_bytes is None:
        return "no limit"
    ways = {record.enforcement for record in rows if record.enforcement is not None}
    refused = any(record.status == "oom" for record in rows)
    how = ", ".join(sorted(ways)) or ("enforced" if refused else "no rank told how it was held")
    return f"{format_bytes(limit_bytes)} per rank ({how})"


def _equal_work(records: Sequence[Record]) -> list[str]:
    tolerance = equal_work.TOLERANCE[records[0].workload.dtype]
    rows = [record for record in records if not record.is_reference]
    if not any(record.status in ("ok", "mismatch") for record in rows):
        return []
    reference = next((record for record in records if record.is_reference), None)
    if reference is not None and reference.status == "ok":
        whom = f"the plain torch reference over {len(reference.steps)} optimizer steps"
    else:
        why = "not run" if reference is None else f"{reference.status}: {reference.reason}"
        whom = f"each other (reference: {why})"
    wrong = sorted({record.row for record in rows if record.status == "mismatch"})
    verdict = f"NOT by {', '.join(wrong)}; the others agree" if wrong else "every ok row agrees"
    return [f"equal work: {verdict} with {whom}, loss and gradient norm within {tolerance:g}"]


def spread_words(spread: Spread | None) -> str:
    """ "0.968 [0.951, 0.977]": median and quartiles, or a dash."""
    if spread is None:
        return NO_NUMBER
    return f"{spread.median:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def size_words(size_bytes: int | None) -> str:
    """ "123.5 MiB", 0, or a dash where the size is unknown."""
    if size_bytes is None:
        return NO_NUMBER
    return format_bytes(size_bytes) if size_bytes else "0"


def _status(summary: Summary) -> str:
    if 0 < summary.launches_ok < summary.launches:
        return f"{summary.status} ({summary.launches_ok} of {summary.launches} ok)"
    return summary.status


def _rate_words(summary: Summary) -> str:
    rate = summary.tokens_per_second_per_rank
    return number(None if rate is None else rate.median, "{:,.0f}")


COLUMNS: tuple[Column[Summary], ...] = (
    ("row", lambda summary: summary.row),
    ("settings", lambda summary: summary.settings or NO_NUMBER),
    ("status", _status),
    ("step s, median [quartiles]", lambda summary: spread_words(summary.step_seconds)),
    ("tokens/s/rank", _rate_words),
    ("SPPO faster by", lambda summary: number(summary.sppo_speed_up, "{:.2f}x")),
    ("MFU (causal)", lambda summary: percent(summary.mfu_causal)),
    ("peak device", lambda summary: size_words(summary.tracked_peak_bytes)),
    ("host", lambda summary: size_words(summary.host_peak_bytes)),
    ("final loss", lambda summary: number(summary.final_loss, "{:.6f}")),
    ("label", lambda summary: summary.label),
)


def notes(records: Sequence[Record]) -> list[str]:
    """The lines under the table: failures with reasons, sources of settings and peak."""
    lines = []
    for summary in summaries(records):
        if summary.status != "ok":
            lines.append(f"{summary.row}: {summary.status}: {summary.reason or 'no reason given'}")
        if summary.grid:
            lines.append(f"{summary.row}, settings: {summary.grid}")
    lines += predicted_vs_counted.lines(records)
    peak = next((record.peak for record in records if record.peak is not None), None)
    if peak is not None:
        rate = f"{peak.flops_per_second / 1e12:.4g} TFLOP/s per rank"
        lines.append(f"MFU: of {rate}, {peak.kind} ({peak.source})")
    if any(summary.tracked_peak_bytes is not None for summary in summaries(records)):
        lines.append("peak device, host: tracked bytes of the accounted step, largest rank")
    return lines


def grid(records: Sequence[Record]) -> str:
    """The table alone, in GitHub's Markdown."""
    return text_table(COLUMNS, summaries(records), "lll" + "r" * 7 + "l")


def text(records: Sequence[Record]) -> str:
    """Header, table and notes for a terminal."""
    return "\n".join([*header(records), "", grid(records), "", *notes(records)])


def markdown(records: Sequence[Record]) -> str:
    """Header, table and notes as a Markdown document."""
    title, *facts = header(records)
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts), "", grid(records), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(records)), ""])


def flat(row: Any) -> dict[str, Any]:
    """A row (a dataclass) for programs: one plain value a key, units in the names.

    None stands for an unknown number.
    """
    values = asdict(row)
    for name in [name for name in ("step_seconds", "tokens_per_second_per_rank") if name in values]:
        spread = values.pop(name) or {}
        for part in ("median", "low", "high"):
            values[f"{name}_{part}"] = spread.get(part)
    return values


def csv_text(records: Sequence[Record]) -> str:
    """The rows as CSV, with a header line."""
    return csv_of([flat(summary) for summary in summaries(records)])


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV, with a header line; empty without rows."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()

"""The comparison as a table, from records alone: Markdown for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.job import Status
from benchmarks.records import equal_work, metrics
from benchmarks.records.metrics import Spread
from benchmarks.records.provenance import commit, is_crowded, machine
from benchmarks.records.record import Record
from benchmarks.reporting import predicted_vs_counted
from benchmarks.reporting.text_table import NO_NUMBER
from sppo.config.sizes import format_bytes, length_name

_SEVERITY: tuple[Status, ...] = (
    "failed",
    "timeout",
    "mismatch",
    "host_oom",
    "oom",
    "infeasible",
    "unavailable",
    "ok",
)

_NOT_RUN: tuple[Status, ...] = ("infeasible", "unavailable")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row over all its launches. Only a row whose launches were all ok has numbers."""

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
    """One per row, in the order in which they were first launched; the reference is no row."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        if record.system != "reference":
            rows.setdefault(record.row, []).append(record)
    sppo = [record for record in records if record.system == "sppo"]
    return [_summary(row, sppo) for row in rows.values()]


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
    memory = [memory for record in launches for memory in record.memory]
    comparable = last.tuned and not is_crowded(last)
    return replace(
        summary,
        step_seconds=step,
        tokens_per_second_per_rank=rate(last.tokens_per_step / last.ranks, step),
        sppo_speed_up=metrics.speed_up(launches, sppo) if comparable else None,
        mfu_causal=metrics.utilisation(
            last.flops.dense + last.flops.attention_causal,
            None if step is None else step.median,
            last.ranks,
            last.peak,
        ),
        tracked_peak_bytes=_largest([m.tracked_peak_bytes for m in memory]),
        host_peak_bytes=_largest([m.host_peak_bytes for m in memory]),
        final_loss=last.steps[-1].loss if last.steps else None,
    )


def rate(tokens_per_rank: float, step: Spread | None) -> Spread | None:
    """Tokens per second and rank, from the tokens of a step and its seconds."""
    if step is None:
        return None
    return Spread(
        median=tokens_per_rank / step.median,
        low=tokens_per_rank / step.high,
        high=tokens_per_rank / step.low,
    )


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def header(records: Sequence[Record]) -> list[str]:
    """What was measured, where, from which commit, under which limit: one fact a line."""
    record = next((r for r in records if r.system != "reference"), records[0])
    workload = record.workload
    cluster = workload.cluster
    sequences = workload.sequences_per_step
    length = length_name(workload.sequence_tokens)
    one = f"one sequence of {length} tokens per step"
    many = f"{sequences} sequences of {length} tokens per step"
    return [
        f"{workload.name}: {workload.model.name}, {one if sequences == 1 else many}, "
        f"{cluster.ranks} ranks ({cluster.hardware}), {workload.dtype}",
        f"measured on {machine(record)}, {commit(record)}, {record.started[:10]}",
        f"device memory: {_limit(records)}",
        *_crowded(record),
        *_equal_work(records),
    ]


def _crowded(record: Record) -> list[str]:
    if not is_crowded(record):
        return []
    cores = record.environment["cores"]
    return [f"{record.ranks} ranks shared {cores} cores: times and rates are NO result here"]


def _limit(records: Sequence[Record]) -> str:
    rows = [record for record in records if record.system != "reference"] or list(records)
    limit_bytes = rows[0].device_memory_bytes
    if limit_bytes is None:
        return "no limit"
    ways = {record.enforcement for record in rows if record.enforcement is not None}
    refused = any(record.status == "oom" for record in rows)
    how = ", ".join(sorted(ways)) or ("enforced" if refused else "no rank told how it was held")
    return f"{format_bytes(limit_bytes)} per rank ({how})"


def _equal_work(records: Sequence[Record]) -> list[str]:
    tolerance = equal_work.TOLERANCE[records[0].workload.dtype]
    rows = [record for record in records if record.system != "reference"]
    if not any(record.status in ("ok", "mismatch") for record in rows):
        return []
    reference = next((record for record in records if record.system == "reference"), None)
    if reference is not None and reference.status == "ok":
        whom = f"the plain torch reference over {len(reference.steps)} optimizer steps"
    else:
        why = "not run" if reference is None else f"{reference.status}: {reference.reason}"
        whom = f"each other (reference: {why})"
    wrong = sorted({record.row for record in rows if record.status == "mismatch"})
    verdict = f"NOT by {', '.join(wrong)}; the others agree" if wrong else "every ok row agrees"
    return [f"equal work: {verdict} with {whom}, loss and gradient norm within {tolerance:g}"]


COLUMNS = (
    "row",
    "settings",
    "status",
    "step s, median [quartiles]",
    "tokens/s/rank",
    "SPPO faster by",
    "MFU (causal)",
    "peak device",
    "host",
    "final loss",
    "label",
)


def cells(summary: Summary) -> list[str]:
    """A line of the table; what is not known is a dash."""
    step = summary.step_seconds
    rate = summary.tokens_per_second_per_rank
    return [
        summary.row,
        summary.settings or NO_NUMBER,
        _status(summary),
        spread_words(step),
        NO_NUMBER if rate is None else f"{rate.median:,.0f}",
        NO_NUMBER if summary.sppo_speed_up is None else f"{summary.sppo_speed_up:.2f}x",
        NO_NUMBER if summary.mfu_causal is None else f"{100 * summary.mfu_causal:.1f} %",
        size_words(summary.tracked_peak_bytes),
        size_words(summary.host_peak_bytes),
        NO_NUMBER if summary.final_loss is None else f"{summary.final_loss:.6f}",
        summary.label,
    ]


def _status(summary: Summary) -> str:
    if 0 < summary.launches_ok < summary.launches:
        return f"{summary.status} ({summary.launches_ok} of {summary.launches} ok)"
    return summary.status


def spread_words(spread: Spread | None) -> str:
    """ "0.968 [0.951, 0.977]": median and quartiles, or a dash."""
    if spread is None:
        return NO_NUMBER
    return f"{spread.median:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def size_words(size_bytes: int | None) -> str:
    """ "123.5 MiB", 0, or a dash where it is not known."""
    if size_bytes is None:
        return NO_NUMBER
    return format_bytes(size_bytes) if size_bytes else "0"


def notes(records: Sequence[Record]) -> list[str]:
    """Under the table: failures with their reasons, where settings and the peak come from."""
    lines = []
    for summary in summaries(records):
        if summary.status != "ok":
            lines.append(f"{summary.row}: {summary.status}: {summary.reason or 'no reason given'}")
        if summary.grid:
            lines.append(f"{summary.row}, settings: {summary.grid}")
    lines += predicted_vs_counted.lines(records)
    peak = next((record.peak for record in records if record.peak is not None), None)
    if peak is not None:
        lines.append(
            f"MFU: of {peak.flops_per_second / 1e12:.4g} TFLOP/s per rank, {peak.kind} "
            f"({peak.source})"
        )
    if any(summary.tracked_peak_bytes is not None for summary in summaries(records)):
        lines.append("peak device, host: tracked bytes of the accounted step, largest rank")
    return lines


def grid(records: Sequence[Record]) -> str:
    """The table alone, GitHub's Markdown."""
    from tabulate import tabulate

    rows = [cells(summary) for summary in summaries(records)]
    right = ("right",) * 7
    table: str = tabulate(
        rows,
        headers=COLUMNS,
        tablefmt="github",
        disable_numparse=True,
        colalign=("left", "left", "left", *right, "left") if rows else None,
    )
    return table


def text(records: Sequence[Record]) -> str:
    """Header, table and notes for a terminal."""
    return "\n".join([*header(records), "", grid(records), "", *notes(records)])


def markdown(records: Sequence[Record]) -> str:
    """The same as a Markdown document."""
    title, *facts = header(records)
    lines = [f"# {title}", "", *(f"- {fact}" for fact in facts), "", grid(records), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes(records)), ""])


def flat(summary: Summary) -> dict[str, Any]:
    """A row for programs: one plain value a key, units in the names, None where not known."""
    values = asdict(summary)
    for name in ("step_seconds", "tokens_per_second_per_rank"):
        spread = values.pop(name) or {}
        for part in ("median", "low", "high"):
            values[f"{name}_{part}"] = spread.get(part)
    return values


def csv_text(records: Sequence[Record]) -> str:
    """The rows as CSV, with a header line."""
    return csv_of([flat(summary) for summary in summaries(records)])


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as CSV, with a header line; empty if there is none."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()

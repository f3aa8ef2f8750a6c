"""The comparison as a table, from records alone: Markdown for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from benchmarks.job import Status
from benchmarks.records import metrics
from benchmarks.records.claim import Claim, claim, yardstick
from benchmarks.records.metrics import Spread
from benchmarks.records.provenance import is_crowded, measured_on
from benchmarks.records.record import Record, grouped
from benchmarks.records.timing import Timing, Verdict, failed_further, timings
from benchmarks.reporting import header_words, machine_notes, predicted_vs_counted
from benchmarks.reporting.text_table import (
    NO_NUMBER,
    Column,
    bullet,
    interval,
    number,
    percent,
    text_table,
)
from sppo.config.sizes import format_bytes, length_name

_SEVERITY: tuple[Status, ...] = get_args(Status)
_NOT_RUN: tuple[Status, ...] = ("infeasible", "unavailable")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A row over all its launches. It has numbers only if all launches have status ok.

    A failed further launch is the exception: `timing_reason` names the launch.
    timing, timing_reason: the verdict on its times (`benchmarks.records.timing`), and why they are
    not steady or why no ratio is claimed. sppo_speed_up_low, _high: the ratio's bootstrap interval.
    between_launches, within_launches: spreads of the step time, as shares.
    """

    row: str
    system: str
    settings: str
    grid: str
    status: Status
    timing: Verdict | None = None
    reason: str
    timing_reason: str = ""
    launches: int
    launches_ok: int
    step_seconds: Spread | None = None
    tokens_per_second_per_rank: Spread | None = None
    sppo_speed_up: float | None = None
    sppo_speed_up_low: float | None = None
    sppo_speed_up_high: float | None = None
    between_launches: float | None = None
    within_launches: float | None = None
    mfu_causal: float | None = None
    tracked_peak_bytes: int | None = None
    host_peak_bytes: int | None = None
    final_loss: float | None = None
    label: str = "measured"


def summaries(records: Sequence[Record]) -> list[Summary]:
    """One summary per row, in the order of the first launch, without the reference.

    Of an untuned row the point that it ended with; its records name those that did not fit.
    """
    judged = timings(records)
    sppo = yardstick(records)
    rows = grouped(records, "row")
    shown = {_row_or_point(launches[-1]): launches for launches in rows.values()}
    return [_summary(launches, sppo, judged) for launches in shown.values()]


def _row_or_point(record: Record) -> str:
    """ "PyTorch native" of its untuned "PyTorch native, point 3"; else the row's own name."""
    return record.row if record.tuned else record.row.partition(", point ")[0]


def _summary(
    launches: Sequence[Record], sppo: Sequence[Record], judged: Mapping[str, Timing]
) -> Summary:
    _, counted = failed_further(launches)
    worst = min(counted, key=lambda record: _SEVERITY.index(record.status))
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
    if worst.status != "ok":
        return summary
    summary = _with_numbers(summary, counted, judged[summary.row])
    comparable = worst.tuned and not is_crowded(worst)
    return _with_ratio(summary, claim(launches, sppo, judged)) if comparable else summary


def _with_ratio(summary: Summary, claimed: Claim) -> Summary:
    reasons = [reason for reason in (summary.timing_reason, claimed.reason) if reason]
    if claimed.reason == f"{summary.row} is unsettled":
        reasons = [*reasons[:1], "no ratio is claimed"]
    elif claimed.reason:
        reasons[-1] = f"no ratio is claimed: {claimed.reason}"
    return replace(
        summary,
        timing_reason="; ".join(reasons),
        sppo_speed_up=claimed.ratio,
        sppo_speed_up_low=claimed.low,
        sppo_speed_up_high=claimed.high,
    )


def _with_numbers(summary: Summary, launches: Sequence[Record], timing: Timing) -> Summary:
    """The numbers of all launches that are not set aside. Memory is that of all launches."""
    last = launches[-1]
    used = [record for record in launches if record.launch in timing.used]
    step = metrics.spread(
        [seconds for record in used for seconds in metrics.measured_seconds(record.steps)]
    )
    seconds = None if step is None else step.median
    return replace(
        summary,
        timing=timing.verdict,
        timing_reason=timing.reason,
        between_launches=timing.between,
        within_launches=timing.within,
        step_seconds=step,
        tokens_per_second_per_rank=rate(last.tokens_per_step / last.ranks, step),
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
    nodes = f" on {cluster.nodes} nodes" if cluster.nodes > 1 else ""
    lines = [
        f"{workload.name}: {workload.model.name}, {sequences} of {length} tokens per step, "
        f"{cluster.ranks} ranks{nodes} ({cluster.hardware}), {workload.dtype}",
        f"measured on {measured_on(record)}",
        f"device memory: {header_words.limit(_rows(records))}",
        *header_words.data_lines(record),
    ]
    if is_crowded(record):
        cores = record.environment["cores"]
        shared = f"{record.ranks} ranks shared {cores} cores"
        lines.append(f"{shared}: times and rates are NO result here")
    return [*lines, *header_words.equal_work_lines(records)]


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


def ratio_words(summary: Summary) -> str:
    """ "1.21x [1.17, 1.26]": the ratio and its interval, or a dash."""
    low, high = summary.sppo_speed_up_low, summary.sppo_speed_up_high
    return interval(summary.sppo_speed_up, low, high)


COLUMNS: tuple[Column[Summary], ...] = (
    ("row", lambda summary: summary.row),
    ("settings", lambda summary: summary.settings or NO_NUMBER),
    ("status", _status),
    ("timing", lambda summary: summary.timing or NO_NUMBER),
    ("step s, median [quartiles]", lambda summary: spread_words(summary.step_seconds)),
    ("tokens/s/rank", _rate_words),
    ("SPPO faster by [interval]", ratio_words),
    ("MFU (causal)", lambda summary: percent(summary.mfu_causal)),
    ("peak device", lambda summary: size_words(summary.tracked_peak_bytes)),
    ("host", lambda summary: size_words(summary.host_peak_bytes)),
    ("final loss", lambda summary: number(summary.final_loss, "{:.6f}")),
    ("label", lambda summary: summary.label),
)


def notes(records: Sequence[Record]) -> list[str]:
    """The lines under the table: failures with reasons, sources of settings and peak."""
    lines = []
    rows = summaries(records)
    for summary in rows:
        if summary.status != "ok":
            lines.append(f"{summary.row}: {summary.status}: {summary.reason or 'no reason given'}")
        if summary.timing_reason:
            lines.append(f"{summary.row}: {summary.timing}: {summary.timing_reason}")
        if summary.grid:
            lines += [f"{summary.row}, settings: {part}" for part in summary.grid.split("; ")]
    lines += predicted_vs_counted.lines(records)
    lines += machine_notes.lines(records)
    peak = next((record.peak for record in records if record.peak is not None), None)
    if peak is not None:
        rate = f"{peak.flops_per_second / 1e12:.4g} TFLOP/s per rank"
        lines.append(f"MFU: of {rate}, {peak.kind} ({peak.source})")
    if any(summary.tracked_peak_bytes is not None for summary in rows):
        lines.append("peak device, host: tracked bytes of the accounted step, largest rank")
    return lines


def grid(records: Sequence[Record]) -> str:
    """The table alone, in GitHub's Markdown."""
    return text_table(COLUMNS, summaries(records), "llll" + "r" * 7 + "l")


def text(records: Sequence[Record]) -> str:
    """Header, table and notes for a terminal."""
    return "\n".join([*header(records), "", grid(records), "", *notes(records)])


def markdown(records: Sequence[Record]) -> str:
    """Header, table and notes as a Markdown document."""
    title, *facts = header(records)
    lines = [f"# {title}", "", *map(bullet, facts), "", grid(records), ""]
    return "\n".join([*lines, *map(bullet, notes(records)), ""])


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

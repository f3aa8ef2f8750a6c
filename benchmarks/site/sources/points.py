"""The emulated points of the paper's figures: charts, a table, and every point in full."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.emulation.tables import size
from benchmarks.paper import boundaries_report
from benchmarks.paper.verdicts import LongestVerdict, PaperPoints, Verdict
from benchmarks.records.record import group_by
from benchmarks.reporting import style
from benchmarks.reporting.text_table import Column, number
from benchmarks.site.charts import Value, groups
from benchmarks.site.document import facts
from benchmarks.site.page import Chart, Section, table
from sppo.config.sizes import GIB, length_name

AGREES = {True: "yes", False: "no", None: "-"}

VERDICT_COLUMNS: tuple[Column[Verdict], ...] = (
    ("model", lambda row: row.model),
    ("tokens", lambda row: row.seq),
    ("GPUs", lambda row: str(row.gpus)),
    ("row", lambda row: row.rule_name),
    ("layout", lambda row: row.settings_text),
    ("emulated", lambda row: row.status),
    ("paper", lambda row: row.paper_outcome or "-"),
    ("agrees", lambda row: AGREES[row.agrees]),
    ("device peak", lambda row: size(row.peak_device_bytes)),
    ("host peak", lambda row: size(row.peak_host_bytes or None)),
    ("step, simulated, s", lambda row: number(row.step_seconds, "{:,.1f}")),
)

LONGEST_COLUMNS: tuple[Column[LongestVerdict], ...] = (
    ("GPUs", lambda row: str(row.gpus)),
    ("row", lambda row: row.rule_name),
    ("layout", lambda row: row.settings_text),
    ("longest, emulated", lambda row: _length(row.longest_tokens)),
    ("paper, fig. 12", lambda row: _length(row.paper_tokens)),
    ("one step longer", lambda row: row.unanswered or row.beyond or "not asked"),
)


def _length(tokens: int | None) -> str:
    if tokens is None:
        return "-"
    return length_name(tokens) if tokens else "cannot run"


def summary(points: PaperPoints) -> str:
    """The result of a figure in a sentence: agreement with the paper, or the longest sequences."""
    if not points.longest:
        return boundaries_report.agreement(points)
    systems = group_by(_largest(points.longest), lambda row: row.system)
    return "; ".join(
        f"{style.look(system).name} "
        + ", ".join(f"{_length(row.longest_tokens)} on {row.gpus} GPUs" for row in rows)
        for system, rows in systems.items()
    )


def charts(points: PaperPoints) -> tuple[Chart, ...]:
    """The longest sequences by GPUs; for each model the device peaks of the rows that count."""
    source = style.emulated_source(points.hardware, points.environment)
    longest = (_longest_chart(points.longest, source),) if points.longest else ()
    return (*longest, *_peak_charts(points.verdicts, source))


def sections(points: PaperPoints, href: str) -> list[Section]:
    """The tables of the points, and every point in full. href: of their page."""
    rows: list[Verdict | LongestVerdict] = [*points.verdicts, *points.longest]
    places = [f"{href}#point-{place}" for place, _ in enumerate(rows, start=1)]
    count = len(points.verdicts)
    blocks = []
    if points.verdicts:
        blocks.append(table(VERDICT_COLUMNS, points.verdicts, places[:count]))
    if points.longest:
        blocks.append(table(LONGEST_COLUMNS, points.longest, places[count:]))
    head: dict[str, Any] = msgspec.to_builtins(points)
    for large in ("verdicts", "longest"):
        head.pop(large)
    return [
        Section(title="Points", blocks=tuple(blocks)),
        Section(title="Where the numbers come from", blocks=(facts(head),)),
        Section(title="Every point in full", blocks=()),
        *(_point(place, row) for place, row in enumerate(rows, start=1)),
    ]


def _point(place: int, row: Verdict | LongestVerdict) -> Section:
    values: Mapping[str, Any] = msgspec.to_builtins(row)
    where = f"{row.gpus} GPUs, {row.rule_name}"
    name = f"{row.model}, {row.seq}, {where}" if isinstance(row, Verdict) else where
    return Section(title=name, anchor=f"point-{place}", level=3, blocks=(facts(values),))


def _longest_chart(rows: Sequence[LongestVerdict], source: str) -> Chart:
    values = [
        Value(
            place=f"{row.gpus} GPUs",
            system=row.system,
            value=float(row.longest_tokens),
            words=_length(row.longest_tokens),
        )
        for row in _largest(rows)
    ]
    title = "The longest sequence that fits, more is better"
    return groups(values, title=title, place="GPUs", axis="tokens", source=source)


def _largest(rows: Sequence[LongestVerdict]) -> Iterator[LongestVerdict]:
    """Of the rows of a system on as many GPUs the one with the longest sequence."""
    for group in group_by(rows, lambda row: (row.gpus, row.system)).values():
        yield max(group, key=lambda row: row.longest_tokens)


def _peak_charts(verdicts: Sequence[Verdict], source: str) -> Iterator[Chart]:
    counted = [row for row in verdicts if row.counted and row.peak_device_bytes is not None]
    for model, rows in group_by(counted, lambda row: row.model).items():
        systems = group_by(rows, lambda row: (row.seq, row.system))
        least = [min(each, key=lambda row: row.peak_device_bytes or 0) for each in systems.values()]
        yield groups(
            [_peak(row) for row in least],
            title=f"{model}: device memory of the fullest rank, less is better",
            place="tokens, GPUs",
            axis="GiB",
            source=source,
        )


def _peak(row: Verdict) -> Value:
    peak = (row.peak_device_bytes or 0) / GIB
    words = "oom" if row.status == "oom" else f"{peak:.1f}"
    return Value(place=f"{row.seq}, {row.gpus}", system=row.system, value=peak, words=words)

"""Published studies: sweeps, ablations, longest sequences and tuned grids, a page each.

Every number links to the values of its row further down the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records.store import check_schema
from benchmarks.reporting import style, tables
from benchmarks.reporting.tables import Summary, size_words
from benchmarks.reporting.text_table import NO_NUMBER, Column, number
from benchmarks.rows import tuning
from benchmarks.rows.tuning import GridPoint, Tuning
from benchmarks.site.charts import Value, bars, lines
from benchmarks.site.document import Document, facts
from benchmarks.site.page import Chart, Page, Section, table
from benchmarks.site.sources.runs import fastest_peer
from benchmarks.studies import ablation, ablation_report, longest_result, sweep, sweep_report
from benchmarks.studies.ablation import PolicyResult
from benchmarks.studies.longest_result import LongestRow, LongestSequences
from benchmarks.studies.sweep import Quantity, SweepPoint
from sppo.config.sizes import limit_words

GROUP = "Studies"

Values = dict[str, Any]


class _Sweep(msgspec.Struct, frozen=True, kw_only=True):
    workload: str
    quantity: Quantity
    values: list[SweepPoint]


class _Ablation(msgspec.Struct, frozen=True, kw_only=True):
    workload: str
    device_memory_bytes: int | None
    policies: list[PolicyResult]


def sweep_document(path: Path, href: str) -> Document:
    """A sweep. Raises ValueError or OSError."""
    data, head = _read(path, sweep.SCHEMA)
    study = msgspec.convert(data, _Sweep)
    rows = [(point, row) for point in study.values for row in point.rows]
    name = sweep_report.NAMES[study.quantity]

    def place(point: SweepPoint) -> str:
        return sweep_report.value_words(study.quantity, point)

    columns: list[Column[tuple[SweepPoint, Summary]]] = [(name, lambda row: place(row[0]))]
    columns += [_of_second(column) for column in tables.COLUMNS]
    title = f"{study.workload} by {name}"
    chart = lines(
        [_step(place(point), row.system, row) for point, row in rows],
        title=f"{title}: seconds of a step, median and quartiles",
        place=name,
        axis="seconds, less is better",
        source=style.source("measured", head),
    )
    values = [(f"{place(point)}, {row.row}", _point_values(point, row)) for point, row in rows]
    ratios = [f"{place(point)}: {_ratio(point)}" for point in study.values]
    return _document(
        href,
        title=title,
        lead=f"SPPO over the fastest peer: {'; '.join(ratios)}.",
        charts=(chart,),
        columns=columns,
        items=rows,
        values=values,
        head=head,
    )


def _ratio(point: SweepPoint) -> str:
    peer = fastest_peer(point.rows)
    return "no ratio is claimed" if peer is None else tables.ratio_words(peer)


def _of_second(column: Column[Summary]) -> Column[tuple[SweepPoint, Summary]]:
    title, write = column
    return title, lambda row: write(row[1])


def _point_values(point: SweepPoint, row: Summary) -> Values:
    own = asdict(point)
    own.pop("rows")
    return own | tables.flat(row)


def _step(place: str, system: str, row: Summary | PolicyResult) -> Value:
    spread = row.step_seconds
    if spread is None:
        return Value(place=place, system=system, value=None, words=row.status)
    seconds = tables.spread_words(spread)
    low, high = spread.low, spread.high
    return Value(
        place=place, system=system, value=spread.median, low=low, high=high, words=f"{seconds} s"
    )


def ablation_document(path: Path, href: str) -> Document:
    """An ablation. Raises ValueError or OSError."""
    data, head = _read(path, ablation.SCHEMA)
    study = msgspec.convert(data, _Ablation)
    limit = style.limit_words(study.device_memory_bytes)
    title = f"{study.workload}, {limit}: SPPO's policies"
    chart = bars(
        [_step(row.policy, ablation.SYSTEM, row) for row in study.policies],
        title=f"{title}: seconds of a step, median and quartiles",
        axis="seconds, less is better",
        source=style.source("measured", head),
    )
    return _document(
        href,
        title=title,
        lead="Every policy decides on the same saved tensors in one layout.",
        charts=(chart,),
        columns=ablation_report.COLUMNS,
        items=study.policies,
        values=[(row.policy, tables.flat(row)) for row in study.policies],
        head=head,
    )


def longest_document(path: Path, href: str) -> Document:
    """The longest sequences of a workload. Raises ValueError or OSError."""
    data, head = _read(path, longest_result.SCHEMA)
    study = msgspec.convert(data, LongestSequences)
    title = f"{study.workload}: the longest sequence in {limit_words(study.device_memory_bytes)}"
    chart = bars(
        [_length(row) for row in study.rows],
        title=title,
        axis="tokens, more is better",
        source=style.source("measured", head),
    )
    words = "; ".join(f"{row.row} {_tokens(row)} tokens" for row in study.rows)
    return _document(
        href,
        title=title,
        lead=f"{words}.",
        charts=(chart,),
        columns=LONGEST_COLUMNS,
        items=study.rows,
        values=[(row.row, msgspec.to_builtins(row)) for row in study.rows],
        head=head,
    )


def _tokens(row: LongestRow) -> str:
    return f"{row.longest_tokens:,}" if row.longest_tokens else "none"


def _length(row: LongestRow) -> Value:
    tokens = row.longest_tokens
    return Value(place=row.row, system=row.system, value=float(tokens), words=f"{tokens:,} tokens")


LONGEST_COLUMNS: tuple[Column[LongestRow], ...] = (
    ("row", lambda row: row.row),
    ("settings", lambda row: row.settings_text or NO_NUMBER),
    ("longest, tokens", _tokens),
    ("peak device", lambda row: size_words(row.peak_device_bytes)),
    ("one step longer", lambda row: row.fails_with or "nothing longer was asked"),
    ("launches", lambda row: str(row.launches)),
    ("settings tried", lambda row: str(row.points)),
)


def tuning_document(path: Path, href: str) -> Document:
    """The measured grids of a workload. Raises ValueError or OSError."""
    data, _ = _read(path, tuning.SCHEMA)
    study = msgspec.convert(data, Tuning)
    points = [(name, point) for name, grid in study.systems.items() for point in grid.points]
    grids = {name: grid.origin for name, grid in study.systems.items()}
    columns: tuple[Column[tuple[str, GridPoint]], ...] = (
        ("system", lambda item: item[0]),
        ("settings", lambda item: item[1].settings_text),
        ("status", lambda item: item[1].status),
        ("median step, s", lambda item: number(item[1].step_seconds_median, "{:.4f}")),
        ("peak device", lambda item: size_words(item[1].tracked_peak_bytes)),
        ("launches", lambda item: str(item[1].launches)),
    )
    limit = style.limit_words(study.device_memory_bytes)
    return _document(
        href,
        title=f"{study.workload}, {limit}: the measured grids of the peers",
        lead="A tuned row of a run has the fastest settings of its grid. All points are here.",
        charts=(),
        columns=columns,
        items=points,
        values=[
            (
                f"{name}, {point.settings_text}",
                {**msgspec.to_builtins(point), "measured on": grids[name]},
            )
            for name, point in points
        ],
        head={"label": "measured", **grids},
    )


FOLDERS: Mapping[str, Callable[[Path, str], Document]] = {
    "sweeps": sweep_document,
    "ablation": ablation_document,
    "longest": longest_document,
    "tuning": tuning_document,
}
"""Folder of results/published/ -> how its files are shown."""


def _read(path: Path, schema: str) -> tuple[Values, Values]:
    """A study's values, and the plain values of its head: machine, versions, commit and date."""
    data = path.read_bytes()
    check_schema(path, data, schema)
    values: Values = msgspec.json.decode(data)
    return values, {key: value for key, value in values.items() if not isinstance(value, list)}


def _document(
    href: str,
    *,
    title: str,
    lead: str,
    charts: tuple[Chart, ...],
    columns: Sequence[Column[Any]],
    items: Sequence[Any],
    values: Sequence[tuple[str, Mapping[str, Any]]],
    head: Mapping[str, Any],
) -> Document:
    """The page of a study. values: of each item its name and all that its file says."""
    places = [f"{href}#row-{index}" for index, _ in enumerate(items, start=1)]
    shown = table(columns, items, places)
    details = [
        Section(title=name, anchor=f"row-{index}", level=3, blocks=(facts(item),))
        for index, (name, item) in enumerate(values, start=1)
    ]
    page = Page(
        path=href,
        group=GROUP,
        title=title,
        lead=lead,
        sections=(
            Section(title="", blocks=(*charts, shown)),
            Section(title="Where the numbers come from", blocks=(facts(head),)),
            Section(title="Every row in full", blocks=()),
            *details,
        ),
    )
    return Document(title=title, href=href, summary=lead, pages=(page,), charts=charts)

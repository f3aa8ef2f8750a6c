"""The history page: each metric over commits with its verdict, and a page for each run in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.regression.history import report, store
from benchmarks.regression.history.entry import Entry, Metric
from benchmarks.regression.history.figure import most_relevant
from benchmarks.regression.history.series import Series, all_series, regressions
from benchmarks.reporting.text_table import Column
from benchmarks.site.charts import Value, points
from benchmarks.site.document import Document, facts, files_in
from benchmarks.site.page import Block, Cell, Chart, Lines, Links, Page, Section, table
from sppo.config.sizes import MIB

GROUP = "History"

HREF = "history/index.html"

MOST_RUNS = 30
"""Newest runs that have a page of their own."""

MOST_POINTS = 120
"""Newest points of a chart."""

MOST_SERIES = 1000
"""Series of the table."""


def read_history(folder: Path, root: Path) -> Document:
    """The history of a folder; an empty one where there is none. Raises ValueError or OSError.

    root: as for `files_in`.
    """
    entries, unreadable = store.read_files(files_in(folder, store.PATTERN, root=root))
    return history_document(entries, [str(line) for line in unreadable])


def history_document(entries: Sequence[Entry], unreadable: Sequence[str] = ()) -> Document:
    """The page of all series, and a page for each of the newest runs.

    entries: in the order of their commits. unreadable: lines that are none.
    """
    series = all_series(entries)
    shown = entries[-MOST_RUNS:]
    places = {
        id(entry): f"history/run-{number}.html" for number, entry in enumerate(shown, start=1)
    }
    charts = tuple(_chart(each) for each in most_relevant(series))
    sections = [Section(title="", blocks=(*charts, *_series_table(series, places)))]
    notes = [*_left_out(len(entries), len(series)), *unreadable]
    if notes:
        sections.append(Section(title="Notes", blocks=(Lines(lines=tuple(notes)),)))
    if shown:
        runs = table(RUN_COLUMNS, shown, [places[id(entry)] for entry in shown])
        sections.append(Section(title="Runs", blocks=(runs,)))
    answer = _answer(entries, series)
    title = "Metrics over commits"
    index = Page(path=HREF, group=GROUP, title=title, lead=answer, sections=tuple(sections))
    pages = (index, *(_run_page(entry, places[id(entry)]) for entry in shown))
    return Document(title=title, href=HREF, summary=answer, pages=pages, charts=charts)


def _answer(entries: Sequence[Entry], series: Sequence[Series]) -> str:
    """Whether the newest commit is a regression, in a sentence."""
    if not series:
        return "There is no history yet: add a run by sppo-bench history add DIR."
    newest = f"The newest commit, {entries[-1].commit_name},"
    worse = regressions(series)
    if worse:
        return f"{newest} confirms a regression: {_names(worse)}."
    known = [each for each in most_relevant(series) if report.verdict(each).startswith("worse")]
    since = f" Known: {_names(known)}." if known else ""
    return f"{newest} confirms no new regression; {len(series)} metrics were judged.{since}"


def _names(series: Sequence[Series]) -> str:
    return ", ".join(f"{each.name} ({report.verdict(each)})" for each in series)


def _series_table(series: Sequence[Series], places: Mapping[int, str]) -> tuple[Block, ...]:
    """The series, each with a link to the page of its newest run."""
    listed = series[:MOST_SERIES]
    hrefs = [places.get(id(each.points[-1].entry), HREF) for each in listed]
    return (table(report.COLUMNS, listed, hrefs),) if listed else ()


def _left_out(runs: int, series: int) -> Iterator[str]:
    if series > MOST_SERIES:
        yield f"{MOST_SERIES} of {series} metrics are listed."
    if runs > MOST_RUNS:
        yield f"The newest {MOST_RUNS} of {runs} runs have a page."


def _chart(series: Series) -> Chart:
    newest = series.points[-MOST_POINTS:]
    in_mib = series.metric.unit == "bytes"
    scale = MIB if in_mib else 1
    values = [
        Value(
            place=point.entry.commit_name,
            system="sppo",
            value=point.metric.value / scale,
            low=None if point.metric.low is None else point.metric.low / scale,
            high=None if point.metric.high is None else point.metric.high / scale,
            words=report.value_words(point.metric.value, series.metric.unit)
            + (f", void: {point.void}" if point.void else ""),
        )
        for point in newest
    ]
    last = newest[-1].entry
    unit = "MiB" if in_mib else series.metric.unit
    return points(
        values,
        void=[bool(point.void) for point in newest],
        title=f"{series.name}: {report.verdict(series)}",
        axis=f"{unit}, {series.metric.better} is better",
        source=f"measured on {series.machine}; newest: {last.commit_name}, {last.date[:10]}",
    )


RUN_COLUMNS: tuple[Column[Entry], ...] = (
    ("commit", lambda entry: entry.commit_name),
    ("date", lambda entry: entry.date),
    ("kind", lambda entry: entry.kind),
    ("machine", lambda entry: entry.machine.id),
    ("metrics", lambda entry: str(len(entry.metrics))),
    ("void", lambda entry: entry.void or "no"),
)

METRIC_COLUMNS: tuple[Column[Metric], ...] = (
    ("metric", lambda metric: metric.name),
    ("value", lambda metric: report.value_words(metric.value, metric.unit)),
    ("better", lambda metric: metric.better),
    ("work", lambda metric: metric.setting),
    ("void", lambda metric: metric.void or "no"),
)


def _run_page(entry: Entry, path: str) -> Page:
    values = msgspec.to_builtins(entry)
    values.pop("metrics", None)
    return Page(
        path=path,
        group=GROUP,
        title=f"{entry.commit_name}: {entry.kind} of {entry.date[:10]}",
        sections=(
            Section(title="", blocks=(Links(cells=(Cell(text="All metrics", href=HREF),)),)),
            Section(title="Where the numbers come from", blocks=(facts(values),)),
            Section(title="Metrics", blocks=(table(METRIC_COLUMNS, entry.metrics),)),
        ),
    )

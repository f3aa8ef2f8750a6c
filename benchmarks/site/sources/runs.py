"""Published runs: a page for each run, and for each row a page with the records of its launches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.file_names import printable
from benchmarks.job import Memory
from benchmarks.records import provenance
from benchmarks.records import record as records
from benchmarks.records.record import Record, StepRecord, group_by
from benchmarks.reporting import style, tables
from benchmarks.reporting.tables import Summary, size_words
from benchmarks.reporting.text_table import Column, number
from benchmarks.rows.row import slug_of
from benchmarks.site.charts import Value, bars
from benchmarks.site.document import Document, code, facts, file_bytes, files_in, unique_names
from benchmarks.site.page import Block, Cell, Chart, Lines, Links, Page, Section, Table, table

GROUP = "Runs"

OWN_BLOCKS = ("schema", "steps", "memory", "settings", "workload", "environment", "machine_state")
"""Keys of a record that are shown by themselves; plain values of the others come first."""

FOLDED = ("plan", "accounted")
"""Large keys of a record, shown on a click."""

STEP_COLUMNS: tuple[Column[StepRecord], ...] = (
    ("phase", lambda step: step.phase),
    ("tokens", lambda step: f"{step.tokens:,}"),
    ("seconds", lambda step: f"{step.seconds:.4f}"),
    ("loss", lambda step: number(step.loss, "{:.6f}")),
    ("gradient norm", lambda step: number(step.grad_norm, "{:.6f}")),
)

MEMORY_COLUMNS: tuple[Column[tuple[int, Memory]], ...] = (
    ("rank", lambda item: str(item[0])),
    ("tracked peak", lambda item: size_words(item[1].tracked_peak_bytes)),
    ("activations, peak", lambda item: size_words(item[1].activation_peak_bytes)),
    ("host peak", lambda item: size_words(item[1].host_peak_bytes)),
    ("untracked peak", lambda item: size_words(item[1].untracked_peak_bytes)),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's folder. name: its name on the site. launches: folder and record, by start time."""

    folder: Path
    name: str
    launches: Sequence[tuple[Path, Record]]

    @property
    def records(self) -> list[Record]:
        """The record of every launch."""
        return [record for _, record in self.launches]

    @property
    def href(self) -> str:
        """The run's page."""
        return f"runs/{self.name}/index.html"


def find_runs(folder: Path, root: Path) -> dict[Path, str]:
    """The run folders below a folder, and their names on the site. root: as for `files_in`."""
    paths = files_in(folder, f"*/*/{records.FILE_NAME}", root=root)
    folders = sorted({path.parent.parent for path in paths})
    names = unique_names(path.name for path in folders)
    return {path: names[path.name] for path in folders}


def read_run(folder: Path, name: str, root: Path) -> Run:
    """The run with its records. root: as for `files_in`. Raises RecordError, or OSError."""
    paths = files_in(folder, f"*/{records.FILE_NAME}", root=root)
    launches = [(path.parent, records.read(path)) for path in paths]
    return Run(
        folder=folder, name=name, launches=sorted(launches, key=lambda item: item[1].started)
    )


def show_run(folder: Path, name: str, root: Path) -> tuple[Run, Document]:
    """The run and its pages. root: as for `files_in`. Raises ValueError, or OSError."""
    run = read_run(folder, name, root)
    return run, run_document(run)


def run_document(run: Run) -> Document:
    """The pages of a run, its chart, and copies of its records."""
    head, *lines = tables.header(run.records)
    row_pages = _row_pages(run)
    files = {
        _file(run, folder): file_bytes(folder / records.FILE_NAME) for folder, _ in run.launches
    }
    summaries = tables.summaries(run.records)
    chart = _chart(run, summaries)
    blocks: list[Block] = [Lines(lines=tuple(lines)), chart]
    if summaries:
        paths = [row_pages[summary.row].path for summary in summaries]
        blocks.append(table(tables.COLUMNS, summaries, paths))
    page = Page(
        path=run.href,
        group=GROUP,
        title=head,
        lead=result_words(summaries),
        sections=(
            Section(title="", blocks=tuple(blocks)),
            Section(title="Notes", blocks=(Lines(lines=tuple(tables.notes(run.records))),)),
            Section(title="Launches", blocks=(_launches(run, row_pages),)),
        ),
    )
    return Document(
        title=printable(run.folder.name),
        href=run.href,
        summary=page.lead,
        pages=(page, *row_pages.values()),
        charts=(chart,),
        files=files,
    )


def result_words(summaries: Sequence[Summary]) -> str:
    """SPPO's speed over the fastest peer, in a sentence."""
    peer = fastest_peer(summaries)
    if peer is None:
        return "No ratio is claimed."
    return f"SPPO is {tables.ratio_words(peer)} as fast as the fastest peer, {peer.row}."


def fastest_peer(summaries: Sequence[Summary]) -> Summary | None:
    """The peer over which SPPO's claimed ratio is the least.

    None where no ratio is claimed, and where times of a row are too noisy to claim one.
    """
    if any(row.timing_reason and row.sppo_speed_up is None for row in summaries):
        return None
    peers = [row for row in summaries if row.system != "sppo" and row.sppo_speed_up is not None]
    return min(peers, key=lambda row: row.sppo_speed_up or 0.0, default=None)


def _chart(run: Run, summaries: Sequence[Summary]) -> Chart:
    """Step times by row, with their quartiles."""
    record = next((each for each in run.records if not each.is_reference), run.records[0])
    limit = style.limit_words(record.device_memory_bytes)
    return bars(
        [_bar(summary) for summary in summaries],
        title=f"{record.workload.name}, {limit}: seconds of a step, median and quartiles",
        axis="seconds, less is better",
        source=f"measured on {provenance.measured_on(record)}",
    )


def _bar(summary: Summary) -> Value:
    spread = summary.step_seconds
    if spread is None:
        return Value(place=summary.row, system=summary.system, value=None, words=summary.status)
    return Value(
        place=summary.row,
        system=summary.system,
        value=spread.median,
        low=spread.low,
        high=spread.high,
        words=f"{spread.median:.3f} s",
    )


def _row_pages(run: Run) -> dict[str, Page]:
    """The page of every row, by its label."""
    rows = group_by(run.launches, lambda launch: launch[1].row)
    slugs = unique_names((slug_of(row) for row in rows), reserved=("index",))
    paths = {row: f"runs/{run.name}/{slugs[slug_of(row)]}.html" for row in rows}
    if len(set(paths.values())) < len(paths):
        raise ValueError(f"{run.folder}: two rows have one name; rename a row")
    return {row: _row_page(run, row, launches, paths[row]) for row, launches in rows.items()}


def _row_page(run: Run, row: str, launches: Sequence[tuple[Path, Record]], path: str) -> Page:
    sections: list[Section] = []
    for folder, record in launches:
        sections += _launch_sections(run, folder, record)
    first = launches[0][1]
    return Page(
        path=path,
        group=GROUP,
        title=f"{row}: the records of its launches",
        lead=f"{first.workload.name}, {first.settings_text or 'no settings'}",
        sections=(Section(title="", blocks=(_back(run),)), *sections),
    )


def _back(run: Run) -> Links:
    return Links(cells=(Cell(text=f"The run {printable(run.folder.name)}", href=run.href),))


def _launch_sections(run: Run, folder: Path, record: Record) -> Iterable[Section]:
    """What a record says: results, steps, memory, settings, environment, machine."""
    values: Mapping[str, Any] = msgspec.to_builtins(record)
    plain = {key: value for key, value in values.items() if key not in (*OWN_BLOCKS, *FOLDED)}
    copy = Cell(text="record.json", href=_file(run, folder))
    yield Section(
        title=f"Launch {record.launch}",
        anchor=f"launch-{record.launch}",
        blocks=(facts(plain), Links(cells=(copy,))),
    )
    steps = table(STEP_COLUMNS, record.steps)
    yield Section(title="Steps", level=3, blocks=(steps,))
    if record.memory:
        memory = table(MEMORY_COLUMNS, list(enumerate(record.memory)))
        yield Section(title="Memory of the accounted step", level=3, blocks=(memory,))
    for key in ("settings", "environment", "machine_state", "workload"):
        if values[key]:
            title = key.replace("_", " ").capitalize()
            yield Section(title=title, level=3, blocks=(facts(values[key]),))
    folded = tuple(code(key.capitalize(), values[key]) for key in FOLDED if values[key])
    if folded:
        yield Section(title="Plan and counts", level=3, blocks=folded)


def _launches(run: Run, pages: Mapping[str, Page]) -> Table:
    columns: tuple[Column[tuple[Path, Record]], ...] = (
        ("row", lambda launch: launch[1].row),
        ("launch", lambda launch: str(launch[1].launch)),
        ("status", lambda launch: launch[1].status),
        ("started", lambda launch: launch[1].started),
        ("median step, s", lambda launch: number(launch[1].step_seconds_median, "{:.4f}")),
    )
    places = [f"{pages[each.row].path}#launch-{each.launch}" for each in run.records]
    return table(columns, run.launches, places)


def _file(run: Run, folder: Path) -> str:
    """The copy of a launch's record."""
    names = unique_names(each.name for each, _ in run.launches)
    return f"runs/{run.name}/{names[folder.name]}.record.json"

"""The files of items: CSV, drawing and page of each, and one index page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.paper.items.item import Comparison, Item, NotCommitted, Table
from benchmarks.records import store
from benchmarks.records.store import published_directory
from benchmarks.reporting import style
from benchmarks.reporting.tables import csv_of
from benchmarks.reporting.text_table import Column, number, rows_table, text_table

INDEX, SUMMARY = "index.md", "index.json"

SCHEMA = "sppo-paper-items/1"

DRAWN = (".png", ".svg")

_COMPARISONS: tuple[Column[Comparison], ...] = (
    ("what", lambda row: row.what),
    ("ours", lambda row: number(row.ours, row.form)),
    ("label", lambda row: row.ours_label),
    ("paper", lambda row: number(row.paper, row.form)),
    ("difference", lambda row: number(row.difference, "{:+.1%}")),
    ("cause", lambda row: row.cause),
)

_INDEX: tuple[Column[Item], ...] = (
    ("item", lambda item: f"[{item.title}]({item.key}.md)"),
    ("what is compared", lambda item: item.compares),
    ("agreement", lambda item: item.agreement),
    ("verdict", lambda item: item.verdict),
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was made: the items, and of those that were not made the reason, by key."""

    items: Sequence[Item]
    not_made: Mapping[str, str]


def write_items(
    makers: Mapping[str, Callable[[], Item]],
    folder: Path,
    on_item: Callable[[Item], None] | None = None,
) -> Written:
    """Make the items one by one, by key, and write each one's files at once; last the index.

    An item whose committed file is not there is left out. on_item: gets every item whose files are
    written. Raises ValueError, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items: list[Item] = []
    not_made: dict[str, str] = {}
    for key, make in makers.items():
        try:
            items.append(make())
        except NotCommitted as reason:
            not_made[key] = str(reason)
            continue
        write_item(items[-1], folder)
        if on_item is not None:
            on_item(items[-1])
    written = Written(items=items, not_made=not_made)
    store.write_bytes(folder / INDEX, index_page(written).encode())
    store.save(folder / SUMMARY, summary(written))
    return written


def write_item(item: Item, folder: Path) -> None:
    """Write KEY.csv, KEY.png, KEY.svg and KEY.md. Raises OSError."""
    store.write_bytes(folder / f"{item.key}.csv", csv_of(item.rows()).encode())
    paths = [folder / f"{item.key}{ending}" for ending in DRAWN]
    with style.page(
        *paths, title=item.title, source=item.drawn_source, inches=item.inches
    ) as figure:
        item.draw(figure)
    store.write_bytes(folder / f"{item.key}.md", item_page(item).encode())


def item_page(item: Item) -> str:
    """The Markdown page of an item: drawing, ours beside the paper's, tables, notes."""
    return "\n\n".join(_page_parts(item)) + "\n"


def _page_parts(item: Item) -> Iterator[str]:
    yield f"# {item.title}"
    yield f"{item.verdict} Agreement: {item.agreement}."
    yield f"![{item.title}]({item.key}.png)"
    if item.comparisons:
        yield "## Ours beside the paper's"
        yield text_table(_COMPARISONS, item.comparisons, "lrlrrl")
    for table in item.tables:
        yield f"## {table.heading}"
        yield _table(table)
    if item.notes:
        yield "## Notes"
        yield "\n".join(f"- {note}" for note in item.notes)
    labels = sorted({point.label for point in item.points})
    yield (
        f"Every number with label, source and settings: [{item.key}.csv]({item.key}.csv). "
        f"Labels of this item: {', '.join(labels)}."
    )
    yield f"All items: [{INDEX}]({INDEX})."


def _table(table: Table) -> str:
    return rows_table(table.titles, table.rows, table.align)


def index_page(written: Written) -> str:
    """The index: item, what is compared, agreement, verdict; then what was not made."""
    lines = [
        "# The paper, figure by figure",
        "arXiv 2503.10377 beside this project. Each item has a page, a CSV and a PNG. The command "
        "also writes an SVG. Simulated times come from the `a100-80g` profile, and those beyond "
        "the paper also from profiles of H100, H200 and B200. All are assumed, not measured.",
        text_table(_INDEX, written.items),
    ]
    if written.not_made:
        lines.append("## Not made")
        lines.append("\n".join(f"- {key}: {why}" for key, why in written.not_made.items()))
    return "\n\n".join(lines) + "\n"


def index_text(written: Written) -> str:
    """The same for a terminal: a line an item."""
    rows = [[item.key, item.agreement] for item in written.items]
    rows += [[key, f"not made: {why}"] for key, why in written.not_made.items()]
    return rows_table(["item", "agreement"], rows)


def summary(written: Written) -> dict[str, Any]:
    """The index for programs, with commit and versions."""
    return {
        "schema": SCHEMA,
        "items": [_summary(item) for item in written.items],
        "not_made": dict(written.not_made),
        "environment": describe_environment(),
    }


def _summary(item: Item) -> dict[str, Any]:
    return {
        "item": item.key,
        "title": item.title,
        "compares": item.compares,
        "agreement": item.agreement,
        "verdict": item.verdict,
        "labels": sorted({point.label for point in item.points}),
    }


def as_json(written: Written) -> dict[str, Any]:
    """The same with every point and comparison."""
    values = summary(written)
    for entry, item in zip(values["items"], written.items, strict=True):
        entry["points"] = item.rows()
        entry["comparisons"] = [
            {**asdict(row), "difference": row.difference} for row in item.comparisons
        ]
    return values


def publish(folder: Path, written: Written) -> Path:
    """Copy pages, CSVs and PNGs to results/paper/pages/; that folder. Raises OSError."""
    target = published_directory().parent / "paper" / "pages"
    target.mkdir(parents=True, exist_ok=True)
    names = [f"{item.key}{ending}" for item in written.items for ending in (".md", ".csv", ".png")]
    for name in (*names, INDEX, SUMMARY):
        shutil.copyfile(folder / name, target / name)
    return target

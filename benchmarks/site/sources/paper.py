"""Pages of the paper's figures and tables, from the files of a folder.

Files of one name are one item: `.md` is its page, `.png` its picture, `.csv` its points, `.json`
its data. A page `index.md` or `README.md` of the folder comes first. A foreign `.svg` could run
scripts as a page of the site, so an SVG is never copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.file_names import printable
from benchmarks.paper import verdicts
from benchmarks.paper.verdicts import PaperPoints
from benchmarks.records.record import group_by
from benchmarks.records.store import RecordError, check_schema
from benchmarks.site.document import LONGEST, Document, facts, file_bytes, files_in
from benchmarks.site.page import Block, Cell, Image, Links, Page, Prose, Section, Table
from benchmarks.site.sources import csv_points, points
from benchmarks.site.sources.markdown import first_line, to_html

GROUP = "Paper"

INDEXES = ("index", "README")

PICTURE = ".png"

COPIED = (".csv", ".json")
"""Endings of files that a page links to."""

CONTENT = (".md", PICTURE, ".csv")
"""An item has a file with one of these endings."""


def find_folders(results: Path, root: Path) -> list[Path]:
    """The folders of items below `results/`: the known ones, and those with an index.

    root: `results`, resolved. A link that leads out of `paper` or `published` is left out.
    """
    known = [results / "paper", results / "published" / "emulation"]
    indexed = [
        path.parent
        for place in (results / "paper", results / "published")
        for name in INDEXES
        for path in sorted(place.rglob(f"{name}.md"))
    ]
    folders = dict.fromkeys(folder for folder in (*known, *indexed) if folder.is_dir())
    return [
        folder
        for folder in folders
        if folder.resolve().is_relative_to(source_root(folder, results, root))
    ]


def source_root(folder: Path, results: Path, root: Path) -> Path:
    """`paper` or `published` of the resolved results, whichever the folder is of."""
    return root / folder.relative_to(results).parts[0]


def find_items(folder: Path, root: Path) -> dict[str, list[Path]]:
    """Item -> its files, by name; the folder's index comes first. root: as for `files_in`."""
    paths = files_in(folder, "*", root=root)
    files = [path for path in paths if path.suffix in (*CONTENT, *COPIED)]
    items = group_by(files, lambda path: path.stem)
    shown = {name: group for name, group in items.items() if _has_content(group)}
    return dict(sorted(shown.items(), key=lambda item: (item[0] not in INDEXES, _order(item[0]))))


def _has_content(files: Sequence[Path]) -> bool:
    return any(path.suffix in CONTENT for path in files)


def _order(name: str) -> str:
    """By words, and by value where a number stands: fig2 before fig10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(LONGEST), name)


def item_document(files: Sequence[Path], place: str, names: Mapping[str, str]) -> Document:
    """The page of an item. place: its folder on the site. names: item -> name on the site.

    Raises ValueError or OSError.
    """
    item = {path.suffix: path for path in files}
    name = printable(files[0].stem)
    target = f"{place}/{names[files[0].stem]}"
    text = ""
    if ".md" in item:
        text = item[".md"].read_text(encoding="utf-8", errors="replace")
    title = first_line(text) or name
    emulated = _emulated_points(item.get(".json"))
    table = csv_points.read(item[".csv"]) if ".csv" in item else None
    charts = () if table is None else csv_points.charts(table, printable(item[".csv"].name))
    if emulated is not None:
        charts = (*charts, *points.charts(emulated))
    copied = {ending: item[ending] for ending in (PICTURE, *COPIED) if ending in item}
    blocks: list[Block] = [*charts]
    if PICTURE in item:
        blocks.append(Image(path=f"{target}{PICTURE}", alt=f"The figure of {name}"))
    if text:
        blocks.append(Prose(html=to_html(text, addresses(names))))
    sections = [Section(title="", blocks=tuple(blocks)), *_tables(table, copied, target)]
    if emulated is not None:
        sections += points.sections(emulated, f"{target}.html")
    elif ".json" in item:
        sections += _data_section(item[".json"])
    page = Page(path=f"{target}.html", group=GROUP, title=title, sections=tuple(sections))
    return Document(
        title=name,
        href=page.path,
        summary=title if emulated is None else points.summary(emulated),
        pages=(page,),
        charts=charts,
        files={f"{target}{ending}": file_bytes(path) for ending, path in copied.items()},
    )


def _tables(table: Table | None, copied: Mapping[str, Path], target: str) -> Iterator[Section]:
    """The points of a CSV that is not too long, and links to the copied files."""
    if table is not None and len(table.rows) <= csv_points.MOST_ROWS:
        yield Section(title="Every point", blocks=(table,))
    cells = [
        Cell(text=printable(path.name), href=f"{target}{ending}") for ending, path in copied.items()
    ]
    if cells:
        yield Section(title="Files", blocks=(Links(cells=tuple(cells)),))


def addresses(names: Mapping[str, str]) -> dict[str, str]:
    """Markdown file of a folder -> its page in the same folder. names: item -> name on the site."""
    return {f"{item}.md": f"{name}.html" for item, name in names.items()}


def _data_section(path: Path) -> Iterator[Section]:
    """The plain values and the objects of a JSON file: settings, environment, versions."""
    values = msgspec.json.decode(path.read_bytes())
    if isinstance(values, dict):
        head = {key: value for key, value in values.items() if not isinstance(value, list)}
        yield Section(title="Where the numbers come from", blocks=(facts(head),))


def _emulated_points(path: Path | None) -> PaperPoints | None:
    """The paper's points in a file; None for JSON with another schema, and without a file."""
    if path is None:
        return None
    data = path.read_bytes()
    try:
        check_schema(path, data, verdicts.SCHEMA)
    except RecordError:
        return None
    return msgspec.json.decode(data, type=PaperPoints)

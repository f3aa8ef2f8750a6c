"""The whole site in memory: from folders of results to files by their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

from plotly.offline import get_plotlyjs

from benchmarks.site.document import Document, Reader, files_in, unique_names
from benchmarks.site.home import home_page, list_page
from benchmarks.site.render import Renderer
from benchmarks.site.sources import paper, runs, studies, traces
from benchmarks.site.sources.history import history_document, read_history

ASSETS = Path(__file__).with_name("assets")


@dataclass(frozen=True, kw_only=True)
class Site:
    """The files of a site by their paths, and a line for each source that could not be shown."""

    files: dict[str, bytes]
    skipped: list[str]


def build(results: Path, generator: str) -> Site:
    """The site of a folder like `results/`: its `published/`, `paper/` and `history/`.

    generator: the program and its commit, for the foot of each page. Raises OSError.
    """
    reader = Reader()
    groups = _groups(reader, results)
    history = reader.read([results / "history"], read_history)
    shown_history = history[0] if history else history_document([])
    documents = [*(each for group in groups.values() for each in group), shown_history]
    pages = [
        home_page(groups, shown_history, reader.skipped),
        *(list_page(group, listed) for group, listed in groups.items()),
        *(page for document in documents for page in document.pages),
    ]
    renderer = Renderer(generator)
    files = _assets()
    for document in documents:
        files |= document.files
    rendered = {page.path: renderer.html(page) for page in pages}
    assert len(rendered) == len(pages), "two pages have one path"
    return Site(files=files | rendered, skipped=reader.skipped)


def _groups(reader: Reader, results: Path) -> dict[str, list[Document]]:
    """The documents of each group of pages."""
    published = results / "published"
    names = runs.find_runs(published)
    shown = reader.read(names, lambda folder: runs.show_run(folder, names[folder]))
    timed = {run.folder: run for run, _ in shown if traces.has_timeline(run)}
    return {
        runs.GROUP: [document for _, document in shown],
        studies.GROUP: list(_studies(reader, published)),
        paper.GROUP: list(_paper(reader, results)),
        traces.GROUP: reader.read(timed, lambda folder: traces.timeline_document(timed[folder])),
    }


def _studies(reader: Reader, published: Path) -> Iterator[Document]:
    for folder, show in studies.FOLDERS.items():
        paths = files_in(published / folder, "*.json")
        names = unique_names(path.stem for path in paths)
        places = {path: f"studies/{folder}/{names[path.stem]}.html" for path in paths}
        yield from reader.read(paths, partial(_shown_at, show, places))


def _shown_at(
    show: Callable[[Path, str], Document], places: Mapping[Path, str], path: Path
) -> Document:
    return show(path, places[path])


def _paper(reader: Reader, results: Path) -> Iterator[Document]:
    folders = paper.find_folders(results)
    places = unique_names(str(folder.relative_to(results)) for folder in folders)
    for folder in folders:
        place = f"paper/{places[str(folder.relative_to(results))]}"
        items = {files[0]: files for files in paper.find_items(folder).values()}
        yield from _items(reader, items, place)


def _items(reader: Reader, items: Mapping[Path, Sequence[Path]], place: str) -> list[Document]:
    """The documents of a folder. A page links to no item that cannot be shown."""
    names = unique_names(path.stem for path in items)
    shown: dict[Path, Document] = {}

    def show(path: Path) -> None:
        shown[path] = paper.item_document(items[path], place, names)

    reader.read(items, show)
    if len(shown) == len(items):
        return list(shown.values())
    return _items(reader, {path: items[path] for path in shown}, place)


def _assets() -> dict[str, bytes]:
    """Scripts, style and licences. Plotly comes from its installed package."""
    plotly = distribution("plotly")
    (licence,) = (file for file in plotly.files or () if file.name == "LICENSE.txt")
    return {
        **{f"assets/{path.name}": path.read_bytes() for path in ASSETS.iterdir()},
        "assets/plotly.min.js": get_plotlyjs().encode(),
        "assets/plotly.LICENSE.txt": licence.read_binary(),
    }

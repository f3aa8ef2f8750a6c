"""The whole site in memory: from folders of results to files by their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

from plotly.offline import get_plotlyjs

from benchmarks.site.document import Document, Reader, files_in, unique_names
from benchmarks.site.home import LEADS, home_page, list_page
from benchmarks.site.render import NAVIGATION, Renderer
from benchmarks.site.site_paths import SitePaths
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
    root = results.resolve()
    files = _assets()
    paths = SitePaths()
    paths.add([*files, *(NAVIGATION[group] for group in LEADS), NAVIGATION["Answers"]])
    history = reader.read(
        [results / "history"], lambda folder: read_history(folder, root / "history")
    )
    shown_history = history[0] if history else history_document([])
    paths.add(shown_history.paths)
    groups = {
        group: list(_without_clashes(reader, paths, documents))
        for group, documents in _groups(reader, results, root).items()
    }
    documents = [*(each for group in groups.values() for each in group), shown_history]
    pages = [
        home_page(groups, shown_history, reader.skipped),
        *(list_page(group, listed) for group, listed in groups.items()),
        *(page for document in documents for page in document.pages),
    ]
    renderer = Renderer(generator)
    for document in documents:
        files |= document.files
    rendered = {page.path: renderer.html(page) for page in pages}
    return Site(files=files | rendered, skipped=reader.skipped)


def _without_clashes(
    reader: Reader, paths: SitePaths, documents: Iterable[Document]
) -> Iterator[Document]:
    """The documents whose paths are free. The others are named in `skipped`."""
    for document in documents:
        try:
            paths.add(document.paths)
        except ValueError as error:
            reader.skipped.append(f"{document.title}: {error}")
        else:
            yield document


def _groups(reader: Reader, results: Path, root: Path) -> dict[str, list[Document]]:
    """The documents of each group of pages."""
    published = results / "published"
    inside = root / "published"
    names = runs.find_runs(published, inside)
    shown = reader.read(names, lambda folder: runs.show_run(folder, names[folder], inside))
    launches = {run.folder: (run, traces.timed_launches(run, inside)) for run, _ in shown}
    timed = {folder: pair for folder, pair in launches.items() if pair[1]}
    return {
        runs.GROUP: [document for _, document in shown],
        studies.GROUP: list(_studies(reader, published, inside)),
        paper.GROUP: list(_paper(reader, results, root)),
        traces.GROUP: reader.read(timed, lambda folder: traces.timeline_document(*timed[folder])),
    }


def _studies(reader: Reader, published: Path, root: Path) -> Iterator[Document]:
    for folder, show in studies.FOLDERS.items():
        paths = files_in(published / folder, "*.json", root=root)
        names = unique_names(path.stem for path in paths)
        places = {path: f"studies/{folder}/{names[path.stem]}.html" for path in paths}
        yield from reader.read(paths, partial(_shown_at, show, places))


def _shown_at(
    show: Callable[[Path, str], Document], places: Mapping[Path, str], path: Path
) -> Document:
    return show(path, places[path])


def _paper(reader: Reader, results: Path, root: Path) -> Iterator[Document]:
    folders = paper.find_folders(results, root)
    places = unique_names(str(folder.relative_to(results)) for folder in folders)
    for folder in folders:
        place = f"paper/{places[str(folder.relative_to(results))]}"
        inside = paper.source_root(folder, results, root)
        items = {files[0]: files for files in paper.find_items(folder, inside).values()}
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
    """Scripts, style and licences. Plotly comes from its installed package.

    Raises ValueError where the package has no licence to copy.
    """
    packaged = distribution("plotly").files or ()
    licence = next((file for file in packaged if file.name.startswith("LICENSE")), None)
    if licence is None:
        raise ValueError("the installed plotly has no licence file: pip install plotly")
    return {
        **{f"assets/{path.name}": path.read_bytes() for path in ASSETS.iterdir()},
        "assets/plotly.min.js": get_plotlyjs().encode(),
        "assets/plotly.LICENSE.txt": licence.read_binary(),
    }

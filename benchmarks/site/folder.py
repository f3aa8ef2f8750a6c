"""The folder of a site. Only an empty folder is written, or one that this command made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from benchmarks.records import store
from benchmarks.site.site_paths import SitePaths, folders_of

MARKER = ".sppo-site.json"

SCHEMA = "sppo-site/1"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a site. A file that is not listed belongs to somebody else, and stays."""

    schema: str = SCHEMA
    files: list[str] = []


def check(folder: Path) -> Manifest:
    """The manifest of the folder's last site; an empty one for a new or empty folder.

    Raises ValueError for any other folder.
    """
    cure = "name an empty folder, or one that `sppo-bench site` made"
    if not folder.exists():
        return Manifest()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: {cure}")
    if not any(folder.iterdir()):
        return Manifest()
    marker = folder / MARKER
    if not marker.is_file():
        raise ValueError(f"{folder} holds files of somebody else: {cure}")
    return store.read_json(marker, Manifest, SCHEMA, cure)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the folder's site by these files. Raises OSError.

    Raises ValueError, before a file is removed, for a foreign folder, for paths that cannot lie in
    one folder, and where a file of somebody else has the path of a page. An interrupted site keeps
    its marker, so it can be written anew.
    """
    before = check(folder).files
    SitePaths().add(files)
    for name in files:
        _check_free(folder, name, frozenset(before))
    folder.mkdir(parents=True, exist_ok=True)
    store.save(folder / MARKER, Manifest(files=sorted({*before, *files})))
    for name in before:
        _remove(folder, name)
    for name, data in files.items():
        path = _inside(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    store.save(folder / MARKER, Manifest(files=sorted(files)))


def _inside(folder: Path, name: str) -> Path:
    """The path of a site's file. Raises ValueError for a name that leads out of the folder."""
    path = folder / name
    if not path.parent.resolve().is_relative_to(folder.resolve()) or path.name in ("", ".", ".."):
        raise ValueError(f"{folder / name} lies outside {folder}")
    return path


def _check_free(folder: Path, name: str, own: Collection[str]) -> None:
    """Raise ValueError unless the last site's files alone stand in the way. own: these files."""
    path = _inside(folder, name)
    blocking = [folder / each for each in folders_of(name)]
    places = [each for each in blocking if each.is_symlink() or each.is_file()]
    if path.is_dir() and not path.is_symlink():
        places += [each for each in (path, *path.rglob("*")) if not _has_entries(each)]
    elif path.is_symlink() or path.exists():
        places.append(path)
    for place in places:
        if place.relative_to(folder).as_posix() not in own:
            raise ValueError(
                f"{place} is not of the last site and has the path of a page: move the file"
            )


def _has_entries(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and any(path.iterdir())


def _remove(folder: Path, name: str) -> None:
    """Remove a file of the last site, and its folder where nothing else is in it."""
    try:
        path = _inside(folder, name)
    except ValueError:
        return
    if path.is_file() or path.is_symlink():
        path.unlink()
    parent = path.parent
    while parent != folder and parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent

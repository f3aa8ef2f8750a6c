"""The folder of a site. Only an empty folder is written, or one that this command made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.records import store

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
    """Replace the folder's site by these files. Raises ValueError for a foreign folder; OSError.

    An interrupted site keeps its marker, so it can be written anew.
    """
    before = check(folder).files
    for name in files:
        _inside(folder, name)
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

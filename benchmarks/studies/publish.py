"""The files of a study: written beside its records, and published."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.records import store


def write(directory: Path, kind: str, texts: Mapping[str, str]) -> None:
    """`kind`.md, .csv and .json beside the records; the keys of `texts` are the endings."""
    for ending, text in texts.items():
        store.write_bytes(directory / f"{kind}.{ending}", text.encode())


def publish(directory: Path, kind: str, folder: str, name: str) -> None:
    """Copy a study's table, CSV if it has one, JSON and figure: results/published/FOLDER/NAME.*."""
    target = store.published_directory() / folder
    target.mkdir(parents=True, exist_ok=True)
    for ending in ("md", "csv", "json", "png"):
        source = directory / f"{kind}.{ending}"
        if ending != "csv" or source.exists():
            shutil.copyfile(source, target / f"{name}.{ending}")
    print(f"published as {target / name}.*", file=sys.stderr)

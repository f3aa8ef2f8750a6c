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
    """Copy table, figure and JSON of a study to results/published/FOLDER/NAME.*."""
    target = store.published_directory() / folder
    target.mkdir(parents=True, exist_ok=True)
    for ending in ("md", "json", "png"):
        shutil.copyfile(directory / f"{kind}.{ending}", target / f"{name}.{ending}")
    print(f"published as {target / name}.*", file=sys.stderr)

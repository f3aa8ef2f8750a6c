"""The files of a study: written beside its records, and published."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records import store
from benchmarks.records.record import Record


class SavedStudy(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a saved result: the workload, its limit, and the origin of the numbers.

    machine: device and number of devices. versions: of the libraries. dirty: whether files differed
    from the commit. date: YYYY-MM-DD.
    """

    schema: str
    workload: str
    device_memory_bytes: int
    machine: str
    versions: dict[str, str]
    commit: str
    dirty: bool
    date: str


def first_measured(done: Sequence[Record]) -> Record:
    """The first record of a row; the reference's if no row has one."""
    return next((record for record in done if record.system != "reference"), done[0])


def write(directory: Path, kind: str, document: str, csv_text: str, data: dict[str, Any]) -> None:
    """Write `kind`.md, .csv and .json. Raises OSError."""
    store.write_bytes(directory / f"{kind}.md", f"# {document}\n".encode())
    store.write_bytes(directory / f"{kind}.csv", csv_text.encode())
    store.save(directory / f"{kind}.json", data)


def publish(directory: Path, kind: str, name: str) -> None:
    """Copy table, CSV (if any), JSON and figure to results/published/NAME.*. Raises OSError.

    name: with its folder, such as "sweeps/tiny-cpu-device-memory".
    """
    target = store.published_directory() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("md", "csv", "json", "png"):
        source = directory / f"{kind}.{ending}"
        if ending != "csv" or source.exists():
            shutil.copyfile(source, target.with_name(f"{target.name}.{ending}"))
    print(f"published as {target}.*", file=sys.stderr)

"""What `sppo-bench paper --measure` has measured of a figure: its file, read and published."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.launch.gate import UNWANTED
from benchmarks.records import store
from benchmarks.records.provenance import commit_words
from benchmarks.reporting import tables
from benchmarks.reporting.tables import Summary
from benchmarks.studies.longest_result import LongestRow, LongestTrial

SCHEMA = "sppo-paper-measured/1"

LABEL = "measured"

FIGURES = ("7", "10", "11", "12")
"""Figures that are measured."""


class LaunchTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One launch of a row. step_seconds: the median of its measured steps.

    bubble_share: of its last step, of all ranks' time; None for a system without a timeline.
    """

    launch: int
    step_seconds: float
    bubble_share: float | None


class MeasuredRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row over all its launches. launches: those whose times count, by number."""

    summary: Summary
    launches: list[LaunchTimes]


class MeasuredRatio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast as the row `over` the row is: the step of `over` over its own.

    The median of launches that ran next to each other, with its bootstrap interval. reason: why no
    ratio is claimed.
    """

    row: str
    over: str
    ratio: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


class MeasuredPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One place on the axis of fig. 7, 10 or 11: rows that ran next to each other.

    folder: of its records, in the run's folder. ratios: of every two rows with times.
    """

    place: str
    folder: str
    workload: str
    sequence_tokens: int
    sequences_per_step: int
    ranks: int
    device_memory_bytes: int | None
    rows: list[MeasuredRow]
    ratios: list[MeasuredRatio]


class LongestPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The longest sequences on so many ranks (fig. 12), a multiple of step_tokens.

    at_most_tokens: the cap of every search.
    """

    place: str
    folder: str
    workload: str
    ranks: int
    device_memory_bytes: int
    step_tokens: int
    at_most_tokens: int
    rows: list[LongestRow]
    trials: list[LongestTrial]


class MeasuredFigure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure: its places in the order of the axis, and the origin of the numbers.

    places: of fig. 7, 10 and 11; longest: of fig. 12. missing: places that are not measured yet.
    """

    schema: str = SCHEMA
    label: str = LABEL
    figure: str
    machine: str
    versions: dict[str, str]
    commit: str
    dirty: bool
    date: str
    missing: list[str]
    places: list[MeasuredPlace]
    longest: list[LongestPlace]

    @property
    def origin(self) -> dict[str, Any]:
        """Machine, commit and date, as `reporting.style.source` takes them."""
        names = ("machine", "versions", "commit", "dirty", "date")
        return {name: getattr(self, name) for name in names}

    @property
    def measured_on(self) -> str:
        """ "AMD EPYC, 2 cores, commit 520ef9f91, 2026-11-29"."""
        return f"{self.machine}, {commit_words(self.origin)}, {self.date}"

    @property
    def unwanted(self) -> list[str]:
        """Rows that ended in no result, such as `failed` or `mismatch`."""
        entries: list[tuple[str, Summary | LongestTrial]] = [
            *((place.place, row.summary) for place in self.places for row in place.rows),
            *((place.place, trial) for place in self.longest for trial in place.trials),
        ]
        return [
            f"{place}, {entry.row}: {entry.status}"
            for place, entry in entries
            if entry.status in UNWANTED
        ]


def file_name(figure: str) -> str:
    """ "fig7": the name of its files, without an ending."""
    return f"fig{figure}"


def published(figure: str) -> Path:
    """The committed file of a figure."""
    return store.published_directory() / "paper" / f"{file_name(figure)}.json"


def read(path: Path) -> MeasuredFigure | None:
    """The figure in a file; None where there is none. Raises OSError, RecordError."""
    path = store.readable(path)
    if not path.exists():
        return None
    return store.read_json(path, MeasuredFigure, SCHEMA, "delete it and measure the figure anew")


def source(measured: MeasuredFigure) -> str:
    """The committed file and its origin, as the source of a point."""
    name = file_name(measured.figure)
    return f"results/published/paper/{name}.json, {measured.measured_on}"


def command(figure: str) -> str:
    """The command that measures a figure."""
    return f"sppo-bench paper --measure --figures {figure}"


def write(directory: Path, measured: MeasuredFigure) -> None:
    """Write the figure's JSON and CSV. Raises OSError."""
    name = file_name(measured.figure)
    store.write_bytes(directory / f"{name}.csv", tables.csv_of(rows(measured)).encode())
    store.save(directory / f"{name}.json", measured)


def publish(directory: Path, figure: str) -> Path:
    """Copy the figure's files to results/published/paper/; that folder. Raises OSError."""
    target = published(figure).parent
    target.mkdir(parents=True, exist_ok=True)
    for ending in ("json", "csv"):
        name = f"{file_name(figure)}.{ending}"
        shutil.copyfile(directory / name, target / name)
    return target


def rows(measured: MeasuredFigure) -> list[Mapping[str, Any]]:
    """A flat row for every place and row."""
    times = [
        {**_head(place), "sequence_tokens": place.sequence_tokens, **tables.flat(row.summary)}
        for place in measured.places
        for row in place.rows
    ]
    lengths = [
        {**_head(place), **msgspec.structs.asdict(row), "label": LABEL}
        for place in measured.longest
        for row in place.rows
    ]
    return [*times, *lengths]


def _head(place: MeasuredPlace | LongestPlace) -> dict[str, Any]:
    names: Sequence[str] = ("place", "workload", "ranks", "device_memory_bytes")
    return {name: getattr(place, name) for name in names}

"""All chosen figures measured place by place: each is kept as it ends, and time left is said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.launch.gate import exit_code
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Display
from benchmarks.paper.miniature import result
from benchmarks.paper.miniature.measure import measure_place
from benchmarks.paper.miniature.places import Place, places_of
from benchmarks.paper.miniature.result import LongestPlace, MeasuredFigure, MeasuredPlace
from benchmarks.records import provenance
from benchmarks.records.record import Record
from benchmarks.studies.publish import first_measured
from sppo.config.workload import Workload


@dataclass(kw_only=True)
class Clock:
    """The seconds of this session, and what is expected of the places to come.

    pace: how many times as long as expected the measured places took.
    """

    budget_seconds: float
    started: float = field(default_factory=time.monotonic)
    expected: float = 0.0
    spent: float = 0.0

    @property
    def pace(self) -> float:
        """1 before the first place has ended."""
        return self.spent / self.expected if self.expected else 1.0

    def left(self, places: Sequence[Place]) -> float:
        """Expected seconds of these places."""
        return self.pace * sum(place.seconds for place in places)

    def allows(self, place: Place) -> bool:
        """Whether the place is expected to end within the budget."""
        return time.monotonic() - self.started + self.left([place]) <= self.budget_seconds

    def note(self, place: Place, seconds: float) -> None:
        """Count a place that took so long."""
        self.expected += place.seconds
        self.spent += seconds


@dataclass(kw_only=True)
class Session:
    """The measurement of figures in one folder. A resumed session skips places that have ended.

    broken: whether a launch ended in no result, such as `failed` or `mismatch`.
    """

    base: Workload
    directory: Path
    options: Options
    display: Display
    clock: Clock
    broken: bool = False

    def measure(self, figures: Sequence[str]) -> list[MeasuredFigure]:
        """Measure the figures in turn; those of which a place is measured.

        Raises ValueError or OSError before the first launch of a place.
        """
        measured = {figure: self._earlier(figure) for figure in figures}
        places = [place for figure in figures for place in places_of(figure, self.base)]
        waiting = [place for place in places if not _has(measured[place.figure], place)]
        while waiting:
            place = waiting[0]
            name = f"fig. {place.figure}, {place.name}"
            if not self.clock.allows(place):
                self.display.note(f"{name}: not begun, because it would pass --budget")
                break
            minutes = self.clock.left(waiting) / 60
            self.display.note(f"{name}: measured now; about {minutes:.0f} min left in all")
            started = time.monotonic()
            point, done = measure_place(place, self.directory, self.options, self.display)
            self.clock.note(place, time.monotonic() - started)
            self.broken |= bool(exit_code(done))
            waiting = waiting[1:]
            figure = _with_place(measured[place.figure], place, point, done)
            result.write(self.directory, figure)
            measured[place.figure] = figure
        return [figure for figure in measured.values() if figure is not None]

    def _earlier(self, figure: str) -> MeasuredFigure | None:
        """What the resumed folder has of a figure. Raises RecordError on a damaged file."""
        return result.read(self.directory / f"{result.file_name(figure)}.json")


def _names(measured: MeasuredFigure | None) -> list[str]:
    if measured is None:
        return []
    return [*(each.place for each in measured.places), *(each.place for each in measured.longest)]


def _has(measured: MeasuredFigure | None, place: Place) -> bool:
    return place.name in _names(measured)


def _with_place(
    measured: MeasuredFigure | None,
    place: Place,
    point: MeasuredPlace | LongestPlace,
    done: Sequence[Record],
) -> MeasuredFigure:
    """The figure with one place more; of its first place the origin."""
    if measured is None:
        measured = MeasuredFigure(
            figure=place.figure,
            **provenance.origin(first_measured(done)),
            missing=[],
            places=[],
            longest=[],
        )
    if isinstance(point, MeasuredPlace):
        measured = msgspec.structs.replace(measured, places=[*measured.places, point])
    else:
        measured = msgspec.structs.replace(measured, longest=[*measured.longest, point])
    known = _names(measured)
    missing = [each.name for each in places_of(place.figure, place.base) if each.name not in known]
    return msgspec.structs.replace(measured, missing=missing)

"""Series of a metric on one machine. A series is cut where library versions or the work change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.record import group_by
from benchmarks.regression.exit_codes import MARGIN
from benchmarks.regression.history.changes import Change, find_changes, is_beyond, is_new
from benchmarks.regression.history.entry import Entry, Metric

DAY_LETTERS = len("2026-11-28")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A metric of one entry. void: why it is not judged, of the run or of the number."""

    entry: Entry
    metric: Metric

    @property
    def void(self) -> str:
        """ "" for a point that is judged."""
        return self.entry.void or self.metric.void


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Points that may be compared. broken_by: what differs from the segment before."""

    points: tuple[Point, ...]
    broken_by: str = ""

    @property
    def judged(self) -> list[Point]:
        """The points that are not void."""
        return [point for point in self.points if not point.void]

    @property
    def values(self) -> list[float]:
        """Their values."""
        return [float(point.metric.value) for point in self.judged]


@dataclass(frozen=True, kw_only=True)
class Series:
    """All points of a metric on one machine, in the order of their commits."""

    name: str
    machine: str
    segments: tuple[Segment, ...]

    @property
    def points(self) -> list[Point]:
        """Those of all segments."""
        return [point for segment in self.segments for point in segment.points]

    @property
    def metric(self) -> Metric:
        """The newest one, for unit and direction."""
        return self.points[-1].metric

    @property
    def least(self) -> float:
        """The smallest share that counts as a change."""
        return 0.0 if self.metric.exact else MARGIN

    def changes(self, segment: Segment) -> list[tuple[Point, Change]]:
        """The changes of a segment, each with its first point."""
        changes = find_changes(segment.values, least=self.least)
        return [(segment.judged[change.index], change) for change in changes]

    def is_worse(self, difference: float) -> bool:
        """Whether a difference of this sign is a regression."""
        return difference > 0 if self.metric.better == "less" else difference < 0

    @property
    def regressed_now(self) -> bool:
        """Whether the newest point of the series confirms a regression, which was not known."""
        last = self.segments[-1]
        if last.points[-1].void:
            return False
        change = is_new(last.values, least=self.least)
        return change is not None and self.is_worse(change.after - change.before)

    @property
    def suspect(self) -> float | None:
        """The share by which the newest point alone differs; None if it does not, or is void."""
        last = self.segments[-1]
        return None if last.points[-1].void else is_beyond(last.values, least=self.least)


def regressions(chosen: Sequence[Series]) -> list[Series]:
    """Series whose newest point confirms a regression.

    Only series that the newest of the chosen commits has: a machine or a series that ended long ago
    stays as it is.
    """
    ends = [series.points[-1].entry for series in chosen]
    newest = max(ends, key=lambda entry: entry.order)
    return [
        series
        for series, end in zip(chosen, ends, strict=True)
        if _night(end) == _night(newest) and series.regressed_now
    ]


def _night(entry: Entry) -> str:
    """The commit; the day of the measurement where the commit is unknown."""
    return entry.commit or entry.date[:DAY_LETTERS]


def all_series(entries: Sequence[Entry]) -> list[Series]:
    """The series by machine and metric. entries: in the order of their commits."""
    points = [Point(entry=entry, metric=metric) for entry in entries for metric in entry.metrics]
    groups = group_by(points, lambda point: (point.entry.machine.id, point.metric.name))
    return [
        Series(name=name, machine=machine, segments=_segments(group))
        for (machine, name), group in groups.items()
    ]


def _segments(points: Sequence[Point]) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    current: list[Point] = []
    broken_by = ""
    for point in points:
        reason = _break(current[-1], point) if current else ""
        if reason:
            segments.append(Segment(points=tuple(current), broken_by=broken_by))
            current, broken_by = [], reason
        current.append(point)
    return (*segments, Segment(points=tuple(current), broken_by=broken_by))


def _break(before: Point, after: Point) -> str:
    """What makes two points incomparable; "" for points that may be compared."""
    reasons = _differences(before.entry.versions, after.entry.versions)
    settings = (before.metric.setting, after.metric.setting)
    if settings[0] != settings[1]:
        reasons.append(f"work: {settings[0] or 'unknown'} -> {settings[1] or 'unknown'}")
    if before.metric.unit != after.metric.unit:
        reasons.append(f"unit: {before.metric.unit} -> {after.metric.unit}")
    return ", ".join(reasons)


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]

"""The bytes of one step, change by change, and what they were when all is known.

While a forward runs nobody can say which of its tensors the backward will read. Afterwards it is
plain: what was made outside a backward and was there when one began is a kept activation, from its
first byte on. (A gradient that a later stage has sent is among them; a buffer that outlives the
step is not.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from baselines.protocol import Kind

StepPhase = Literal["forward", "backward", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where in a step something happened.

    backwards: how many backward passes had begun, of `all_backwards`. operation: the operator that
    ran. share: 0 before the first operator of the step, 1 after its last.
    """

    phase: StepPhase
    backwards: int
    all_backwards: int
    operation: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was live after one change, by kind. "host" is no part of the device's sum."""

    operator: int
    in_backward: bool
    share: float
    device_bytes: int
    by_kind: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Told:
    """A rank's step in hindsight."""

    peak_bytes: int
    moment: Moment
    peak_by_kind: dict[str, int]
    at_peak_by_kind: dict[str, int]
    points: list[Point]


@dataclass(frozen=True, slots=True)
class _Change:
    serial: int
    kind: Kind
    size_bytes: int
    operator: int
    in_backward: bool


class Journal:
    """Told of operators and changes by an `Accounting`; `tell` is for afterwards."""

    def __init__(self) -> None:
        self._before: list[_Change] = []
        self._changes = self._before
        self._operations: list[str] = []
        self._backward_starts: list[int] = []
        self._last_backward = -1
        self._in_backward = False

    def begin(self) -> None:
        """The step begins; what was told so far is what it starts with."""
        self._changes = []

    def operate(self, name: str, in_backward: bool) -> None:
        """An operator begins, in a backward or not."""
        if in_backward:
            self._last_backward = len(self._operations)
            if not self._in_backward:
                self._backward_starts.append(self._last_backward)
        self._in_backward = in_backward
        self._operations.append(name)

    def change(self, serial: int, kind: Kind, size_bytes: int) -> None:
        """A storage has this kind and size from now on; it holds nothing or is gone at size 0."""
        operator = len(self._operations) - 1
        self._changes.append(_Change(serial, kind, size_bytes, operator, self._in_backward))

    def whereabouts(self) -> str:
        """How far the step has come, for the report of one that broke."""
        begun = len(self._backward_starts)
        if self._in_backward:
            return f"backward {begun}"
        return f"forward, {begun} backward passes done" if self._operations else "its beginning"

    def tell(self, points: int = 1000) -> Told:
        """The step in hindsight; its curve in about `points` points, the highest of each part."""
        replay = _Replay(self._kept())
        for change in self._before:
            replay.apply(change)
        operators = max(1, len(self._operations))
        best = self._point(-1, False, replay)
        curve: dict[int, Point] = {-1: best}
        peaks = replay.live.copy()
        for change in self._changes:
            kind = replay.apply(change)
            peaks[kind] = max(peaks[kind], replay.live[kind])
            part = change.operator * points // operators
            if part not in curve or replay.device_bytes >= curve[part].device_bytes:
                curve[part] = self._point(change.operator, change.in_backward, replay)
            if replay.device_bytes >= best.device_bytes:
                best = curve[part]
        curve[points] = self._point(operators - 1, False, replay)
        return Told(
            peak_bytes=best.device_bytes,
            moment=self._moment(best),
            peak_by_kind=dict(+peaks),
            at_peak_by_kind=best.by_kind,
            points=list(curve.values()),
        )

    def _kept(self) -> set[int]:
        """Storages of the step that were made outside a backward, that one found, and now gone."""
        kept: set[int] = set()
        live: set[int] = set()
        before = {change.serial for change in self._before}
        starts = [*self._backward_starts, len(self._operations)]
        number = 0
        for change in self._changes:
            while change.operator >= starts[number]:
                kept |= live
                number += 1
            if change.kind != "temporary" or not change.size_bytes:
                live.discard(change.serial)
            elif not change.in_backward and change.serial not in before:
                live.add(change.serial)
        return kept - live

    def _point(self, operator: int, in_backward: bool, replay: _Replay) -> Point:
        return Point(
            operator=operator,
            in_backward=in_backward,
            share=(operator + 1) / max(1, len(self._operations)),
            device_bytes=replay.device_bytes,
            by_kind=dict(+replay.live),
        )

    def _moment(self, point: Point) -> Moment:
        operator = point.operator
        begun = sum(start <= operator for start in self._backward_starts)
        phase: StepPhase = "backward" if point.in_backward else "forward"
        if operator > self._last_backward >= 0:
            phase = "optimizer"
        return Moment(
            phase=phase,
            backwards=begun,
            all_backwards=len(self._backward_starts),
            operation=self._operations[operator] if operator >= 0 else "",
            share=point.share,
        )


class _Replay:
    """Live bytes while changes are applied, with hindsight."""

    def __init__(self, kept: set[int]) -> None:
        self.live: Counter[str] = Counter()
        self.device_bytes = 0
        self._kept = kept
        self._held: dict[int, tuple[Kind, int]] = {}

    def apply(self, change: _Change) -> Kind:
        """The kind that the change is about."""
        kind = change.kind
        if kind == "temporary" and change.serial in self._kept:
            kind = "activations"
        old_kind, old_bytes = self._held.get(change.serial, (kind, 0))
        self._held[change.serial] = (kind, change.size_bytes)
        self._add(old_kind, -old_bytes)
        self._add(kind, change.size_bytes)
        return kind

    def _add(self, kind: Kind, more_bytes: int) -> None:
        self.live[kind] += more_bytes
        if kind != "host":
            self.device_bytes += more_bytes

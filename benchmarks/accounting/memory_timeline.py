"""The bytes of one step, change by change, by kinds that are known only after the step.

During a forward nobody knows which of its tensors the backward will read. After the step this is
known: a tensor from outside a backward that was live when a backward began was kept for it. Such a
tensor is an activation from its first byte on. (A gradient from a later stage is among them; a
buffer that outlives the step is not.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from baselines.protocol import Kind

StepPhase = Literal["forward", "backward", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class StepPosition:
    """A position in a step.

    backwards: how many backward passes had begun, of `all_backwards`. operation: the operator that
    ran. share: 0 before the first operator of the step, 1 after its last.
    """

    phase: StepPhase
    backwards: int
    all_backwards: int
    operation: str
    share: float


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Live bytes after one change, by kind. "host" is no part of the device's sum."""

    operator: int
    in_backward: bool
    share: float
    device_bytes: int
    by_kind: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """The live bytes of a whole step of one rank, by kind. `peak_at`: where the peak is."""

    peak_bytes: int
    peak_at: StepPosition
    peak_by_kind: dict[str, int]
    at_peak_by_kind: dict[str, int]
    curve: list[CurvePoint]


class _Change(NamedTuple):
    serial: int
    kind: Kind
    size_bytes: int
    operator: int
    in_backward: bool


class Journal:
    """Written by an `Accounting`, operator by operator and change by change; read by `replay`."""

    def __init__(self) -> None:
        self._before: list[_Change] = []
        self._changes = self._before
        self._operations: list[str] = []
        self._backward_starts: list[int] = []
        self._last_backward = -1
        self._in_backward = False

    def begin(self) -> None:
        """The step begins; all earlier changes are the state at its begin."""
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
        """A storage has this kind and size from now on; size 0: it is empty or gone."""
        operator = len(self._operations) - 1
        self._changes.append(_Change(serial, kind, size_bytes, operator, self._in_backward))

    def progress(self) -> str:
        """How far the step has come, for the report of a rank that broke."""
        begun = len(self._backward_starts)
        if self._in_backward:
            return f"backward {begun}"
        return f"forward, {begun} backward passes done" if self._operations else "its beginning"

    def replay(self, points: int = 1000) -> StepMemory:
        """The memory of the ended step; its curve has about `points` points, each the highest."""
        live = _LiveBytes(self._kept())
        for change in self._before:
            live.apply(change)
        operators = max(1, len(self._operations))
        peak = self._point(-1, False, live)
        curve = {-1: peak}
        peaks = live.by_kind.copy()
        for change in self._changes:
            kind = live.apply(change)
            peaks[kind] = max(peaks[kind], live.by_kind[kind])
            part = change.operator * points // operators
            if part not in curve or live.device_bytes >= curve[part].device_bytes:
                curve[part] = self._point(change.operator, change.in_backward, live)
            if live.device_bytes >= peak.device_bytes:
                peak = curve[part]
        curve[points] = self._point(operators - 1, False, live)
        return StepMemory(
            peak_bytes=peak.device_bytes,
            peak_at=self._position(peak),
            peak_by_kind=dict(+peaks),
            at_peak_by_kind=peak.by_kind,
            curve=list(curve.values()),
        )

    def _kept(self) -> set[int]:
        """Serials of storages that were made outside a backward, live in one, and are gone now."""
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

    def _point(self, operator: int, in_backward: bool, live: _LiveBytes) -> CurvePoint:
        return CurvePoint(
            operator=operator,
            in_backward=in_backward,
            share=(operator + 1) / max(1, len(self._operations)),
            device_bytes=live.device_bytes,
            by_kind=dict(+live.by_kind),
        )

    def _position(self, point: CurvePoint) -> StepPosition:
        phase: StepPhase = "backward" if point.in_backward else "forward"
        if point.operator > self._last_backward >= 0:
            phase = "optimizer"
        return StepPosition(
            phase=phase,
            backwards=sum(start <= point.operator for start in self._backward_starts),
            all_backwards=len(self._backward_starts),
            operation=self._operations[point.operator] if point.operator >= 0 else "",
            share=point.share,
        )


class _LiveBytes:
    """Live bytes by kind while changes are applied; temporaries in `kept` are activations."""

    def __init__(self, kept: set[int]) -> None:
        self.by_kind: Counter[str] = Counter()
        self.device_bytes = 0
        self._kept = kept
        self._storages: dict[int, tuple[Kind, int]] = {}

    def apply(self, change: _Change) -> Kind:
        """Apply a change; returns its kind."""
        kind = change.kind
        if kind == "temporary" and change.serial in self._kept:
            kind = "activations"
        old_kind, old_bytes = self._storages.get(change.serial, (kind, 0))
        self._storages[change.serial] = (kind, change.size_bytes)
        self.by_kind[old_kind] -= old_bytes
        self.by_kind[kind] += change.size_bytes
        self.device_bytes = self.by_kind.total() - self.by_kind["host"]
        return kind

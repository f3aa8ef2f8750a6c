"""Differences for people: alike changes in one line, the cause before its effects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.regression.check.differences import ValueDifference

LINES = 10
"""Lines of a report, unless the user asks for more."""

POSITION = re.compile(r"[\d, >-]+|rank \d+")
"""A part of a key that only says where: an index, a rank, a pair of ranks."""

KIND_PARTS = 2
"""Leading words of a key that name its kind: "simulation.makespan_ns", "decisions.recomputed"."""

EFFECTS = (
    (re.compile(r"digest"), 2),
    (re.compile(r"seconds|_ns\b|share|ratio|mfu|makespan|busy|time"), 1),
)
"""Kinds that follow from others come later: times follow from counts, a digest from anything."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference and its topic."""

    topic: str
    difference: ValueDifference

    @property
    def kind(self) -> str:
        """The key without places: all stages, ranks and operators are one kind."""
        difference = self.difference
        words = [part for part in difference.key.split(".") if not POSITION.fullmatch(part)]
        return re.sub(r"\d+", "#", ".".join(words[:KIND_PARTS]))

    @property
    def size(self) -> float:
        """How much it changed; what came or went changed most."""
        return self.difference.size


def lines(changes: Iterable[Change], most: int = LINES) -> list[str]:
    """A line for each kind of change, its largest one first; at most `most` lines.

    Kinds are in the order of cause and effect, then as found.
    """
    by_kind: dict[str, list[Change]] = {}
    for change in changes:
        by_kind.setdefault(change.kind, []).append(change)
    kinds = sorted(by_kind, key=_rank)
    text = [_line(by_kind[kind]) for kind in kinds]
    if len(text) <= most:
        return text
    left = sum(len(by_kind[kind]) for kind in kinds[most - 1 :])
    return [
        *text[: most - 1],
        f"and {left} more in {len(kinds) - most + 1} kinds: --lines {len(text)}",
    ]


def _rank(kind: str) -> int:
    return next((rank for pattern, rank in EFFECTS if pattern.search(kind)), 0)


def _line(changes: Sequence[Change]) -> str:
    shown = max(changes, key=lambda change: change.size)
    text = f"{shown.topic}: {shown.difference}"
    if len(changes) == 1:
        return text
    shares = [change.difference.share for change in changes if change.difference.share is not None]
    text += f"; {len(changes) - 1} more of the same"
    if shares:
        least, largest = (f"{100 * share:+.3g} %" for share in (min(shares), max(shares)))
        text += f", {least}" if least == largest else f", {least} to {largest}"
    others = dict.fromkeys(change.topic for change in changes if change.topic != shown.topic)
    return text + (f", also in {', '.join(others)}" if others else "")

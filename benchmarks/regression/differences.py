"""Two trees of JSON values, compared value by value. Knows nothing of this project."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeGuard

Scalar = str | int | float | bool | None
Tree: TypeAlias = "Scalar | Sequence[Tree] | Mapping[str, Tree]"
"""What JSON can say; a sequence is a list."""

Values: TypeAlias = dict[str, Tree]

Cases: TypeAlias = Mapping[str, Values]
"""The values of a topic, by the name of the case."""

LINES = 10
"""Lines of one topic that are shown, unless more are asked for."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value that is not as expected. `others`: how many more of the same list are not."""

    case: str
    key: str
    old: str
    new: str
    per_cent: float | None = None
    others: int = 0

    def __str__(self) -> str:
        share = "" if self.per_cent is None else f" ({self.per_cent:+.3g} %)"
        others = f", {self.others} more of the list" if self.others else ""
        return f"{self.case}: {self.key}: {self.old} -> {self.new}{share}{others}"


def compare(expected: Cases, actual: Cases, tolerances: Mapping[str, float]) -> list[Difference]:
    """Every value that differs, by case.

    `tolerances` are relative, by a name in a key; every other value must be the same.
    """
    differences = []
    for case in dict.fromkeys((*expected, *actual)):
        if case not in actual:
            differences.append(_whole_case(case, "expected", "not made any more"))
        elif case not in expected:
            differences.append(_whole_case(case, "not in the file", "made"))
        else:
            differences += _compare_case(case, expected[case], actual[case], tolerances)
    return differences


def _whole_case(case: str, old: str, new: str) -> Difference:
    return Difference(case=case, key="the case", old=old, new=new)


def _compare_case(
    case: str, expected: Tree, actual: Tree, tolerances: Mapping[str, float]
) -> Iterator[Difference]:
    for pair in _unequal(_Pair(key="", old=expected, new=actual), tolerances):
        yield Difference(
            case=case,
            key=pair.key,
            old=_words(pair.old),
            new=_words(pair.new),
            per_cent=_per_cent(pair.old, pair.new),
            others=pair.others,
        )


class _Absent:
    """What stands where a tree has no such key."""


_ABSENT = _Absent()


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The two sides of one dotted key."""

    key: str
    old: Tree | _Absent
    new: Tree | _Absent
    others: int = 0


def _unequal(pair: _Pair, tolerances: Mapping[str, float]) -> Iterator[_Pair]:
    """The smallest subtrees that differ; of the values of one list the first, with their number."""
    key, old, new = pair.key, pair.old, pair.new
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            below = _Pair(
                key=_below(key, name), old=old.get(name, _ABSENT), new=new.get(name, _ABSENT)
            )
            yield from _unequal(below, tolerances)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [
            _Pair(key=_below(key, str(index)), old=before, new=after)
            for index, (before, after) in enumerate(zip(old, new, strict=True))
        ]
        unequal = [leaf for below in pairs for leaf in _unequal(below, tolerances)]
        if unequal:
            yield replace(unequal[0], others=len(unequal) - 1)
    elif not _same(pair, max(tolerances.get(name, 0.0) for name in key.split("."))):
        yield pair


def _same(pair: _Pair, tolerance: float) -> bool:
    old, new = pair.old, pair.new
    if tolerance and _is_number(old) and _is_number(new):
        return math.isclose(old, new, rel_tol=tolerance)
    return type(old) is type(new) and old == new


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _per_cent(old: Tree | _Absent, new: Tree | _Absent) -> float | None:
    if not _is_number(old) or not _is_number(new) or old == 0:
        return None
    return 100 * (new - old) / abs(old)


def _words(value: Tree | _Absent) -> str:
    if isinstance(value, _Absent):
        return "absent"
    if isinstance(value, list | Mapping):
        return f"{len(value)} entries"
    return str(value)


def lines(topic: str, differences: Sequence[Difference], most: int = LINES) -> list[str]:
    """Differences for people, `most` at most: every case has its turn before any has a second."""
    by_case: dict[str, list[Difference]] = {}
    for difference in differences:
        by_case.setdefault(difference.case, []).append(difference)
    turns = itertools.zip_longest(*by_case.values())
    in_turn = [difference for turn in turns for difference in turn if difference is not None]
    shown = set(in_turn[:most])
    text = [f"{topic}: {difference}" for difference in differences if difference in shown]
    hidden = [difference for difference in differences if difference not in shown]
    if hidden:
        cases = len({difference.case for difference in hidden})
        text.append(f"{topic}: and {len(hidden)} more, in {cases} of {len(by_case)} cases")
    return text

"""Two trees of JSON values, compared value by value. Knows nothing of this project."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

from msgspec import UNSET, UnsetType

Tree: TypeAlias = "str | int | float | bool | Sequence[Tree] | Mapping[str, Tree] | None"
"""A JSON value; a sequence is a list."""

Values: TypeAlias = dict[str, Any]
"""The values of one case: a JSON object, a `Tree` under each name."""

CaseValues: TypeAlias = Mapping[str, Values]
"""The values of a topic, by the name of the case."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueDifference:
    """The expected and the actual value under one dotted key; UNSET where there is no such key.

    more: how many further values of the same list differ, none by a larger share.
    """

    case: str
    key: str
    old: Tree | UnsetType
    new: Tree | UnsetType
    more: int = 0

    @property
    def share(self) -> float | None:
        """The change over the expected value; None where either is no number, or nothing."""
        if is_number(self.old) and is_number(self.new) and self.old:
            return (self.new - self.old) / abs(self.old)
        return None

    @property
    def size(self) -> float:
        """How much it changed; what came or went changed most."""
        return math.inf if self.share is None else abs(self.share)

    def __str__(self) -> str:
        share = "" if self.share is None else f" ({100 * self.share:+.3g} %)"
        more = f", {self.more} more of the list" if self.more else ""
        return f"{self.case}: {self.key}: {_words(self.old)} -> {_words(self.new)}{share}{more}"


def compare(
    expected: CaseValues, actual: CaseValues, tolerances: Mapping[str, float]
) -> list[ValueDifference]:
    """Every value that differs, by case.

    `tolerances` are relative, by a pattern of the whole key (a regular expression). Every other
    value must be the same.
    """
    differences: list[ValueDifference] = []
    for case in dict.fromkeys((*expected, *actual)):
        key = ""
        old: Tree = expected.get(case)
        new: Tree = actual.get(case)
        if new is None:
            key, old, new = "the case", "expected", "not made any more"
        elif old is None:
            key, old, new = "the case", "not in the file", "made"
        differences += _leaves(ValueDifference(case=case, key=key, old=old, new=new), tolerances)
    return differences


def _leaves(
    difference: ValueDifference, tolerances: Mapping[str, float]
) -> Iterator[ValueDifference]:
    """The smallest subtrees that differ; of the values of one list the largest."""
    old, new, prefix = difference.old, difference.new, f"{difference.key}.".lstrip(".")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            below = replace(
                difference, key=prefix + name, old=old.get(name, UNSET), new=new.get(name, UNSET)
            )
            yield from _leaves(below, tolerances)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        unequal: list[ValueDifference] = []
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            below = replace(difference, key=f"{prefix}{index}", old=before, new=after)
            unequal += _leaves(below, tolerances)
        if unequal:
            largest = max(unequal, key=lambda each: each.size)
            yield replace(largest, more=len(unequal) - 1)
    elif not _same(old, new, _tolerance(difference.key, tolerances)):
        yield difference


def _tolerance(key: str, tolerances: Mapping[str, float]) -> float:
    matching = (share for pattern, share in tolerances.items() if re.fullmatch(pattern, key))
    return max(matching, default=0.0)


def _same(old: Tree | UnsetType, new: Tree | UnsetType, tolerance: float) -> bool:
    if tolerance and is_number(old) and is_number(new):
        return math.isclose(old, new, rel_tol=tolerance)
    return type(old) is type(new) and old == new


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value can be compared by size; True and False cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def not_finite(tree: Tree) -> bool:
    """Whether a number in the tree is NaN or infinite, which JSON does not have."""
    if isinstance(tree, Mapping):
        return any(not_finite(value) for value in tree.values())
    if isinstance(tree, list):
        return any(not_finite(value) for value in tree)
    return isinstance(tree, float) and not math.isfinite(tree)


def count_values(tree: Tree) -> int:
    """The number of plain values in a tree."""
    if isinstance(tree, Mapping):
        return sum(count_values(value) for value in tree.values())
    if isinstance(tree, list):
        return sum(count_values(value) for value in tree)
    return 1


def _words(value: Tree | UnsetType) -> str:
    if value is UNSET:
        return "absent"
    return f"{len(value)} entries" if isinstance(value, list | Mapping) else str(value)

"""Counts and ranges of numbers in words, for a plan's card and reasons. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """ "1 model chunk", "2 model chunks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers, shortened: "0 .. 5, 8", or "0, 4, .., 28" where they are evenly spaced."""
    members = list(numbers)
    steps = {after - before for before, after in itertools.pairwise(members)}
    if len(members) > 3 and len(steps) == 1 and steps != {1}:
        return f"{members[0]}, {members[1]}, .., {members[-1]}"
    words: list[str] = []
    for _, pairs in itertools.groupby(enumerate(members), key=lambda pair: pair[1] - pair[0]):
        run = [str(number) for _, number in pairs]
        words += run if len(run) < 3 else [f"{run[0]} .. {run[-1]}"]
    return ", ".join(words)

"""Small pieces of prose that cards and reasons share. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from sppo.config.models import Model
from sppo.plan.blocks import block_of


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers, shortened: "0 .. 5, 8", or "0, 4, .., 28" where they are evenly spaced."""
    found = list(numbers)
    steps = {after - before for before, after in itertools.pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]}, {found[1]}, .., {found[-1]}"
    words = []
    for _, run in itertools.groupby(enumerate(found), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        if len(members) < 3:
            words += [str(number) for number in members]
        else:
            words.append(f"{members[0]} .. {members[-1]}")
    return ", ".join(words)


def in_order(model: Model, names: Iterable[str]) -> str:
    """Units of a block by name, in the order in which it makes them."""
    wanted = set(names)
    return ", ".join(unit.name for unit in block_of(model).saved_tensors if unit.name in wanted)

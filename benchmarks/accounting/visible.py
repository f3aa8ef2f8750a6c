"""The tensors that Python sees, also those that the garbage collector no longer lists."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

from torch import Tensor

_spared: list[weakref.ref[Tensor]] = []
"""The tensors of `spare_live_objects`, which `gc.get_objects` leaves out. As `gc.freeze`, it is one
for the process and its forks."""


def visible_tensors() -> Iterator[Tensor]:
    """Every tensor that a Python object of this process holds."""
    for item in gc.get_objects():
        if issubclass(type(item), Tensor):
            yield item
    for known in _spared:
        tensor = known()
        if tensor is not None:
            yield tensor


def spare_live_objects() -> None:
    """Collect garbage, and leave every object that is alive now out of all later collections.

    A collection walks a million objects of imported libraries otherwise: 0.2 to 0.4 s. In a fork it
    would also copy every page that holds such an object.
    """
    gc.collect()
    _spared.extend(map(weakref.ref, list(visible_tensors())))
    gc.freeze()

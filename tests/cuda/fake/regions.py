"""Which bytes of its storage a tensor covers, and whether two tensors share any."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

_MOST_RUNS = 2**16
"""A tensor of more runs of bytes is taken for one run, from its first byte to its last."""


class Region(NamedTuple):
    """A tensor's bytes in its storage; offset, strides and item in bytes."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item: int

    @classmethod
    def of(cls, tensor: Tensor) -> Region:
        item = tensor.element_size()
        strides = tuple(item * stride for stride in tensor.stride())
        return cls(item * int(tensor.storage_offset()), tuple(tensor.shape), strides, item)

    @property
    def end(self) -> int:
        """Behind the last byte."""
        reach = sum(s * (n - 1) for s, n in zip(self.strides, self.shape, strict=True))
        return self.offset + reach + self.item

    def shares_bytes_with(self, other: Region) -> bool:
        if self.end <= other.offset or other.end <= self.offset:
            return False
        starts, length = _runs(self)
        other_starts, other_length = _runs(other)
        before = np.searchsorted(other_starts, starts + length)
        last = other_starts[np.maximum(before - 1, 0)]
        return bool(((before > 0) & (last + other_length > starts)).any())


@lru_cache(maxsize=4096)
def _runs(region: Region) -> tuple[Any, int]:
    """The sorted starts of a region's runs of bytes, and their length."""
    axes = sorted(
        (stride, count)
        for stride, count in zip(region.strides, region.shape, strict=True)
        if stride and count > 1
    )
    length = region.item
    while axes and axes[0][0] == length:
        length *= axes.pop(0)[1]
    if np.prod([count for _, count in axes], dtype=np.int64) > _MOST_RUNS:
        return np.array([region.offset]), region.end - region.offset
    starts = np.array([region.offset])
    for stride, count in axes:
        starts = (starts[:, None] + stride * np.arange(count)).ravel()
    return np.sort(starts), length

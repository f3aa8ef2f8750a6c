"""Keys and values of some positions, with the accumulators of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class KvBlock(NamedTuple):
    """Keys and values of some positions [kv_heads, n, D], and the accumulators of dK and dV.

    Accumulators are float32 or wider. In a cache they may have fewer positions, see `KvCache`.
    """

    keys: Tensor
    values: Tensor
    key_gradients: Tensor
    value_gradients: Tensor


KvPair = tuple[Tensor, Tensor]
"""K and V [kv_heads, n, D] of some positions."""


def span(buffers: Sequence[Tensor], start: int, end: int) -> list[Tensor]:
    """Views of these positions; `narrow` is one operator, an index with a slice is two or more."""
    return [buffer.narrow(1, start, end - start) for buffer in buffers]

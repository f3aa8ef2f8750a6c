"""Keys and values of some positions, with the accumulators of their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.model.weights import accumulation_dtype
from sppo.offload.host_memory import TakeHost, host_memory


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


@dataclass(frozen=True, kw_only=True)
class KvFormat:
    """Heads, dtype, device and host memory of the K and V of one of `shards` ranks."""

    model: Model
    device: torch.device
    dtype: torch.dtype
    shards: int = 1
    take_host: TakeHost = host_memory

    def allocate(self, count: int, tokens: int, dtype: torch.dtype, *, host: bool) -> Tensor:
        """[count, kv_heads / shards, tokens, D] on the device or in the host tier."""
        shape = (count, self.model.kv_heads // self.shards, tokens, self.model.head_width)
        if not host or not tokens:
            return torch.empty(shape, device=self.device, dtype=dtype)
        memory = self.take_host(dtype.itemsize * math.prod(shape), self.device)
        return memory.view(dtype).view(shape)

    def kv(self, count: int, tokens: int, *, host: bool) -> list[Tensor]:
        """K and V by `allocate`."""
        return [self.allocate(count, tokens, self.dtype, host=host) for _ in range(2)]

    def gradients(self, count: int, tokens: int, *, host: bool) -> list[Tensor]:
        """dK and dV by `allocate`, float32 or wider."""
        wide = accumulation_dtype(self.dtype)
        return [self.allocate(count, tokens, wide, host=host) for _ in range(2)]

"""Keys, values and their gradient accumulators of one stage: preallocated, whole sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sppo.workload import Model


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """One layer's buffers, each [kv_heads, S, D]; accumulators are float32 or wider."""

    keys: Tensor
    values: Tensor
    key_gradients: Tensor
    value_gradients: Tensor
    heads: int

    @property
    def qkv_width(self) -> int:
        kv_heads, _, width = self.keys.shape
        return (self.heads + 2 * kv_heads) * width

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views [heads, l, D], [kv_heads, l, D] twice, of qkv [l, (heads + 2 kv_heads) D]."""
        kv_heads, _, width = self.keys.shape
        by_head = qkv.view(qkv.shape[0], -1, width).transpose(0, 1)
        query, key, value = torch.split(by_head, [self.heads, kv_heads, kv_heads])
        return query, key, value


class KvCache:
    """Buffers of `layers` layers for sequences of `tokens` tokens.

    Positions are absolute, so a write is idempotent; a sequence's backward must be over before the
    next sequence's forward begins to reuse the buffers.
    """

    def __init__(
        self, model: Model, layers: int, tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (layers, model.kv_heads, tokens, model.head_width)
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        self.tokens = tokens
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.key_gradients = torch.zeros(shape, device=device, dtype=precision)
        self.value_gradients = torch.zeros(shape, device=device, dtype=precision)
        self.layers = [
            LayerCache(
                keys=self.keys[index],
                values=self.values[index],
                key_gradients=self.key_gradients[index],
                value_gradients=self.value_gradients[index],
                heads=model.heads,
            )
            for index in range(layers)
        ]

    def clear_gradients(self) -> None:
        """Before a sequence's backward."""
        self.key_gradients.zero_()
        self.value_gradients.zero_()

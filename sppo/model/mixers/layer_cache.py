"""What attention asks of one layer's K, V, dK and dV, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from sppo.model.mixers.kv_block import KvBlock, KvPair


class LayerCache(Protocol):
    """One layer's keys, values and accumulators. Positions are absolute."""

    @property
    def in_pieces(self) -> bool:
        """Whether K and V of a subsequence may be kept piece by piece."""

    @property
    def kv_heads(self) -> int:
        """Heads of K and V on this rank."""

    def place(self, like: Tensor, start: int) -> KvPair:
        """Where to write K and V [kv_heads, l, D], shaped as `like`, of positions from `start`."""

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """K and V are written: keep them for every later subsequence."""

    def own(self, start: int, tokens: int) -> list[KvPair]:
        """K and V [kv_heads, tokens, D] of one subsequence."""

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """K and V of all positions before `start`, in blocks on the device."""

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        """`own`, with the dK and dV that later subsequences have added; once in a backward."""

    def own_sums(self, start: int, own: list[KvBlock]) -> KvPair:
        """dK and dV [kv_heads, tokens, D] of one subsequence, after attention added to `own`."""

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """`prefix` for `tokens` queries, which add dK and dV before they take the next block."""

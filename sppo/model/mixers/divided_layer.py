"""K and V of a layer that ranks with the same heads divide: context parallelism inside a stage.

Of C ranks each has every C-th token. K and V are gathered where attention reads them, and their dK
and dV are summed over the ranks where attention has added to them. So no rank keeps those of others
between two computes; every subsequence gathers its prefix anew, the next block while attention
computes on the last.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sppo.comm.collectives import CollectiveWork, Team
from sppo.model.mixers.kv_block import KvBlock, KvPair, span
from sppo.plan.blocks.attention import PREFIX_BLOCK_TOKENS


class GatheredBlocks(list[KvBlock]):
    """Blocks of C ranks. `sums` [2 C, kv_heads, n, D] are their accumulators, at first zeros."""

    def __init__(self, gathered: Tensor, dtype: torch.dtype) -> None:
        zeros = gathered.new_zeros(gathered.shape, dtype=dtype)
        pairs = zip(gathered.unbind(), zeros.unbind(), strict=True)
        super().__init__(KvBlock(*pair, *sums) for pair, sums in pairs)
        self.sums = zeros.flatten(0, 1)


class DividedLayer:
    """One layer's K, V, dK and dV of a rank's own tokens: [kv_heads, S / C, D] on the device.

    Positions in arguments are those of the sequence, counts of tokens those of one rank. Blocks of
    all tokens are lists of C blocks, one for each rank's tokens.
    """

    in_pieces = True

    def __init__(self, buffers: KvBlock, context: Team) -> None:
        self.buffers = buffers
        self.context = context
        self.kv_heads = buffers.keys.shape[0]

    def place(self, like: Tensor, start: int) -> KvPair:
        """Where to write K and V [kv_heads, n, D], shaped as `like`, of own tokens from `start`."""
        first = start // self.context.size
        keys, values = span(self.buffers[:2], first, first + like.shape[1])
        return keys, values

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """K and V are written, and stay."""

    def own(self, start: int, tokens: int) -> list[KvPair]:
        """K and V of one subsequence, gathered."""
        gathered = self._gather(start // self.context.size, tokens).wait()
        return [(keys, values) for keys, values in self._by_rank(gathered).unbind()]

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """K and V of all positions before `start`, in blocks for `tokens` queries."""
        for _, gathered in self._gathered(start, tokens):
            for keys, values in gathered.unbind():
                yield keys, values
                del keys, values
            del gathered

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        """`own`, with zeros for the dK and dV of the own queries."""
        gathered = self._gather(start // self.context.size, tokens).wait()
        return self._with_zeros(self._by_rank(gathered))

    def own_sums(self, start: int, own: list[KvBlock]) -> KvPair:
        """dK and dV [kv_heads, n, D] of the own tokens of a subsequence, complete.

        own: `own_gradients`, to which attention has added, and which is emptied.
        """
        assert isinstance(own, GatheredBlocks)
        key_sums, value_sums = self._summed(own)
        first, tokens = start // self.context.size, key_sums.shape[1]
        if first + tokens <= self.buffers.key_gradients.shape[1]:  # later subsequences have added
            later = span(self.buffers[2:], first, first + tokens)
            key_sums.add_(later[0])
            value_sums.add_(later[1])
        return key_sums, value_sums

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """`prefix` for `tokens` queries, which add dK and dV before they take the next block."""
        for first, gathered in self._gathered(start, tokens):
            blocks, count = self._with_zeros(gathered), gathered.shape[3]
            del gathered
            yield from blocks
            into = span(self.buffers[2:], first, first + count)
            key_sums, value_sums = self._summed(blocks)
            into[0].add_(key_sums)
            into[1].add_(value_sums)
            del blocks, key_sums, value_sums

    def _blocks(self, start: int, tokens: int) -> Iterator[tuple[int, int]]:
        """(first, count) of own tokens before `start`, at most as many as the queries."""
        step = max(PREFIX_BLOCK_TOKENS // self.context.size, tokens)
        for first in range(0, start // self.context.size, step):
            yield first, min(step, start // self.context.size - first)

    def _gathered(self, start: int, tokens: int) -> Iterator[tuple[int, Tensor]]:
        """(first own token, K and V by rank) of the blocks; the next is on its way meanwhile."""
        works = (
            (first, self._gather(first, count)) for first, count in self._blocks(start, tokens)
        )
        ahead = next(works, None)
        while ahead is not None:
            first, work = ahead
            ahead = next(works, None)
            held = [self._by_rank(work.wait())]
            del work
            yield first, held.pop()  # the caller alone decides how long it lives

    def _gather(self, first: int, count: int) -> CollectiveWork:
        """[2 C, kv_heads, count, D]: K and V of `count` tokens of every rank."""
        return self.context.all_gather(torch.stack(span(self.buffers[:2], first, first + count)))

    def _by_rank(self, gathered: Tensor) -> Tensor:
        """[C, 2, kv_heads, count, D]."""
        by_rank: Tensor = gathered.unflatten(0, (self.context.size, 2))
        return by_rank

    def _with_zeros(self, gathered: Tensor) -> GatheredBlocks:
        return GatheredBlocks(gathered, self.buffers.key_gradients.dtype)

    def _summed(self, blocks: GatheredBlocks) -> tuple[Tensor, Tensor]:
        """dK and dV of the own tokens, of all ranks' queries; the blocks are emptied."""
        blocks.clear()
        key_sums, value_sums = self.context.reduce_scatter(blocks.sums).wait()
        return key_sums, value_sums

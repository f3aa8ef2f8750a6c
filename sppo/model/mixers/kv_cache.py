"""Keys, values and their gradient accumulators of one stage: the whole sequence, preallocated.

The buffers lie on the device, or in the host tier where a sequence is too long for the device
(`hosted_layer.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from sppo.comm.collectives import Team
from sppo.model.mixers.divided_layer import DividedLayer
from sppo.model.mixers.hosted_layer import GradientState, HostedLayer, KvRing
from sppo.model.mixers.kv_block import KvBlock, KvFormat, KvPair, span
from sppo.model.mixers.layer_cache import LayerCache
from sppo.plan.blocks.attention import PREFIX_BLOCK_TOKENS


class ResidentLayer:
    """One layer's K, V, dK and dV [kv_heads, S, D] on the device: blocks are views.

    Positions are absolute, so that a write is idempotent. `last` has dK and dV of the positions
    behind the accumulators: those of the last subsequence, while its backward is in this layer.
    in_pieces: whether K and V of a subsequence may be kept piece by piece.
    """

    in_pieces = True

    def __init__(self, buffers: KvBlock, last: Sequence[Tensor] = ()) -> None:
        self.buffers = buffers
        self.last = last
        self.kv_heads = buffers.keys.shape[0]

    def place(self, like: Tensor, start: int) -> KvPair:
        """Where to write K and V [kv_heads, l, D], shaped as `like`, of positions from `start`."""
        return self._pair(start, like.shape[1])

    def _pair(self, start: int, tokens: int) -> KvPair:
        key, value = span(self.buffers[:2], start, start + tokens)
        return key, value

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """K and V are written: keep them for every later subsequence."""

    def own(self, start: int, tokens: int) -> list[KvPair]:
        """K and V [kv_heads, tokens, D] of one subsequence: a single block."""
        return [self._pair(start, tokens)]

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """K and V of all positions before `start`, in blocks on the device."""
        if start:
            yield self._pair(0, start)

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        """`own`, with the dK and dV that later subsequences have added; once in a backward.

        Those of the last subsequence are zeros.
        """
        if start + tokens <= self.buffers.key_gradients.shape[1]:
            return [KvBlock(*span(self.buffers, start, start + tokens))]
        zeros = [tensor.zero_() for tensor in span(self.last, 0, tokens)]
        return [KvBlock(*self._pair(start, tokens), *zeros)]

    def own_sums(self, start: int, own: list[KvBlock]) -> KvPair:
        """dK and dV [kv_heads, tokens, D] of one subsequence, after attention added to `own`."""
        return own[0].key_gradients, own[0].value_gradients

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """`prefix` for `tokens` queries, which add dK and dV before they take the next block.

        In blocks, so that the operator's own dK and dV stay as small as those of the queries.
        """
        step = max(PREFIX_BLOCK_TOKENS, tokens)
        for first in range(0, start, step):
            yield KvBlock(*span(self.buffers, first, min(first + step, start)))


class KvCache:
    """The buffers of `layers` layers for `tokens` tokens.

    With a `ring` they lie in the host tier. The backward of a sequence must be over before the
    forward of the next sequence reuses the buffers. The cache shares dK and dV with the cache
    `gradients_of`, because only one sequence at a time has gradients.

    dK and dV are summed for the first `summed_tokens` positions (None: for all). Those behind are
    of the last subsequence, to which no other one adds: `last` has room for one layer after the
    other. With a `context` of several ranks all tokens are own ones of this rank.
    """

    def __init__(
        self,
        form: KvFormat,
        layers: int,
        tokens: int,
        ring: KvRing | None = None,
        gradients_of: KvCache | None = None,
        *,
        summed_tokens: int | None = None,
        last: Sequence[Tensor] = (),
        context: Team | None = None,
    ) -> None:
        self.ring = ring
        self._gradients = [GradientState() for _ in range(layers)]
        host = ring is not None
        kv = form.kv(layers, tokens, host=host)
        if gradients_of is None:
            summed = tokens if summed_tokens is None else summed_tokens
            gradients = form.gradients(layers, summed, host=host)
        else:
            self._gradients = gradients_of._gradients
            gradients = list(gradients_of.buffers[2:])
        self.buffers: KvBlock = KvBlock(*kv, *gradients)
        self.clear_gradients()
        self.layers: list[LayerCache] = []
        for layer, state in enumerate(self._gradients):
            buffers = KvBlock(*(buffer[layer] for buffer in self.buffers))
            if ring is not None:
                self.layers.append(HostedLayer(buffers, ring, state))
            elif context is not None and context.size > 1:
                self.layers.append(DividedLayer(buffers, context))
            else:
                self.layers.append(ResidentLayer(buffers, last))

    def clear_gradients(self) -> None:
        """Before the backward of a sequence: dK and dV are zero. Host memory is not written."""
        if self.ring is None:
            self.buffers.key_gradients.zero_()
            self.buffers.value_gradients.zero_()
        for state in self._gradients:
            state.zero = True

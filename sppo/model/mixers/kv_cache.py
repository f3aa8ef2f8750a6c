"""Keys, values and their gradient accumulators of one stage: the whole sequence, preallocated.

They lie on the device, or, where a sequence is too long for that, in the host tier: then the prefix
is brought in blocks, the next one while attention works on the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.offload.host_memory import Courier, TakeHost, host_memory
from sppo.plan.blocks.attention import PREFIX_BLOCK_TOKENS


class Block(NamedTuple):
    """Keys and values of some positions [kv_heads, n, D], and where to add their gradients.

    Accumulators are float32 or wider.
    """

    keys: Tensor
    values: Tensor
    key_gradients: Tensor
    value_gradients: Tensor


def _span(buffers: Block, start: int, end: int) -> Block:
    """Views of these positions; `narrow` is one operator, an index with a slice is two or more."""
    return Block(*(buffer.narrow(1, start, end - start) for buffer in buffers))


class LayerCache(Protocol):
    """One layer's K and V. Positions are absolute, so a write is idempotent."""

    kv_heads: int

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Where to write key and value of positions start .. start + l, shaped as `like`."""
        ...

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """They are written: keep them for every later subsequence."""
        ...

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Key and value of one subsequence, on the device."""
        ...

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of all positions before `start`, in blocks, on the device."""
        ...

    def own_gradients(self, start: int, tokens: int) -> Block:
        """`own`, with what later subsequences have added to its gradients."""
        ...

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[Block]:
        """`prefix`, to be added to, by `tokens` queries, before the next block is asked for."""
        ...


class Cache(Protocol):
    """The layers of one part."""

    layers: list[LayerCache]


class ResidentLayer:
    """K, V, dK and dV [kv_heads, S, D] on the device: blocks are views."""

    def __init__(self, buffers: Block) -> None:
        self.buffers = buffers
        self.kv_heads = buffers.keys.shape[0]

    def _span(self, start: int, end: int) -> Block:
        return _span(self.buffers, start, end)

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return self.own(start, like.shape[1])

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """They lie in the buffers already."""

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        span = self._span(start, start + tokens)
        return span.keys, span.values

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        if start:
            yield self.own(0, start)

    def own_gradients(self, start: int, tokens: int) -> Block:
        return self._span(start, start + tokens)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[Block]:
        """Blocks, so that the operator's own dK and dV stay as small as those of the queries."""
        step = max(PREFIX_BLOCK_TOKENS, tokens)
        for first in range(0, start, step):
            yield self._span(first, min(first + step, start))


class KvRing:
    """Two device blocks of `tokens` tokens that all hosted layers of a stage share in turn."""

    def __init__(
        self,
        model: Model,
        tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        shards: int = 1,
    ) -> None:
        shape = (2, model.kv_heads // shards, tokens, model.head_width)
        precision = torch.float64 if dtype == torch.float64 else torch.float32
        self.tokens = tokens
        self.buffers = Block(
            torch.empty(shape, device=device, dtype=dtype),
            torch.empty(shape, device=device, dtype=dtype),
            torch.empty(shape, device=device, dtype=precision),
            torch.empty(shape, device=device, dtype=precision),
        )
        self.courier = Courier(device)

    def slot(self, number: int, tokens: int) -> Block:
        return Block(*(buffer[number % 2].narrow(1, 0, tokens) for buffer in self.buffers))


@dataclass(kw_only=True)
class Unused:
    """Whether nothing was added yet to the dK and dV of a layer, which its caches share."""

    really: bool = True


class HostedLayer:
    """K, V, dK and dV [kv_heads, S, D] in the host tier; `ring` brings them by blocks.

    While the accumulators are `unused` (whatever lies in the host) the first backward, that of the
    last subsequence, begins them with zeros on the device.
    """

    def __init__(self, host: Block, ring: KvRing, device: torch.device, unused: Unused) -> None:
        self.host = host
        self.unused = unused
        self.ring = ring
        self.device = device
        self.kv_heads = host.keys.shape[0]
        self.moved_bytes = 0

    def _span(self, start: int, end: int) -> Block:
        return _span(self.host, start, end)

    def _bring(self, into: Tensor, source: Tensor) -> None:
        self.moved_bytes += source.numel() * source.element_size()
        self.ring.courier.bring(into, source)

    def _take(self, source: Tensor, into: Tensor) -> None:
        self.moved_bytes += source.numel() * source.element_size()
        self.ring.courier.take(source, into)

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return like.new_empty(like.shape), like.new_empty(like.shape)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        span = self._span(start, start + key.shape[1])
        self.ring.courier.let_go()  # those of the layer before
        self._take(key, span.keys)
        self._take(value, span.values)

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        span = self._span(start, start + tokens)
        own = []
        for source in (span.keys, span.values):
            own.append(torch.empty(source.shape, device=self.device, dtype=source.dtype))
            self._bring(own[-1], source)
        self.ring.courier.arrived().wait()
        return own[0], own[1]

    def own_gradients(self, start: int, tokens: int) -> Block:
        self.ring.courier.let_go()
        keys, values = self.own(start, tokens)
        gradients = []
        for source in self._span(start, start + tokens)[2:]:
            if self.unused.really:
                assert start + tokens == self.host.keys.shape[1], "the last comes first"
                gradients.append(torch.zeros(source.shape, device=self.device, dtype=source.dtype))
                continue
            gradients.append(torch.empty(source.shape, device=self.device, dtype=source.dtype))
            self._bring(gradients[-1], source)
        self.ring.courier.arrived().wait()
        return Block(keys, values, *gradients)

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for block, _ in self._blocks(start, 2):
            yield block.keys, block.values

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[Block]:
        for block, host in self._blocks(start, 2 if self.unused.really else 4):
            if self.unused.really:
                block.key_gradients.zero_()
                block.value_gradients.zero_()
            yield block
            self._take(block.key_gradients, host.key_gradients)
            self._take(block.value_gradients, host.value_gradients)
        self.unused.really = False

    def _blocks(self, start: int, kinds: int) -> Iterator[tuple[Block, Block]]:
        """(device block, its place in the host), the first `kinds` buffers of it brought.

        The next block is on its way while the caller works on this one.
        """
        spans = [
            (first, min(first + self.ring.tokens, start))
            for first in range(0, start, self.ring.tokens)
        ]

        def bring(number: int) -> tuple[Block, Block]:
            first, last = spans[number]
            block, host = self.ring.slot(number, last - first), self._span(first, last)
            for into, source in zip(block[:kinds], host[:kinds], strict=True):
                self._bring(into, source)
            return block, host

        following = bring(0) if spans else None
        for number in range(len(spans)):
            assert following is not None
            block, host = following
            arrived = self.ring.courier.arrived()
            if number + 1 < len(spans):
                following = bring(number + 1)
            arrived.wait()
            yield block, host


class KvCache:
    """The buffers of `layers` layers for `tokens` tokens: the heads of one of `shards` ranks.

    With a `ring` they lie in the host tier. A sequence's backward must be over before another's
    forward begins to reuse the buffers. `gradients_of` is a cache to share dK and dV with: they are
    one sequence's at a time.
    """

    def __init__(
        self,
        model: Model,
        layers: int,
        tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        ring: KvRing | None = None,
        gradients_of: KvCache | None = None,
        *,
        shards: int = 1,
        take_host: TakeHost = host_memory,
    ) -> None:
        shape = (layers, model.kv_heads // shards, tokens, model.head_width)
        precision = torch.float64 if dtype == torch.float64 else torch.float32

        def take(kind: torch.dtype) -> Tensor:
            if ring is None:
                return torch.empty(shape, device=device, dtype=kind)
            size_bytes = kind.itemsize * layers * tokens * model.kv_width // shards
            return take_host(size_bytes, device).view(kind).view(shape)

        self.ring = ring
        if gradients_of is None:
            self.buffers = Block(take(dtype), take(dtype), take(precision), take(precision))
        else:
            self.buffers = Block(take(dtype), take(dtype), *gradients_of.buffers[2:])
        self._unused: list[Unused] = [Unused() for _ in range(layers)]
        if gradients_of is not None:
            self._unused = gradients_of._unused
        self.clear_gradients()
        self.layers: list[LayerCache] = []
        for layer, unused in enumerate(self._unused):
            mine = Block(*(buffer[layer] for buffer in self.buffers))
            self.layers.append(
                ResidentLayer(mine) if ring is None else HostedLayer(mine, ring, device, unused)
            )

    def clear_gradients(self) -> None:
        """Before a sequence's backward: zeros, in the host tier by word only."""
        if self.ring is None:
            self.buffers.key_gradients.zero_()
            self.buffers.value_gradients.zero_()
        for unused in self._unused:
            unused.really = True

    @property
    def moved_bytes(self) -> int:
        """Bytes between host and device so far; 0 for resident layers."""
        return sum(layer.moved_bytes for layer in self.layers if isinstance(layer, HostedLayer))

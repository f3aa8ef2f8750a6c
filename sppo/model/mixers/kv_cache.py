"""Keys, values and their gradient accumulators of one stage: the whole sequence, preallocated.

The buffers lie on the device, or in the host tier where a sequence is too long for the device. Then
the prefix is copied to the device in blocks, the next block while attention computes on the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.config.models import Model
from sppo.model.weights import accumulation_dtype
from sppo.offload.host_memory import DONE, CopyEvent, CopyStreams, TakeHost, host_memory
from sppo.plan.blocks.attention import PREFIX_BLOCK_TOKENS, ring_slots


class KvBlock(NamedTuple):
    """Keys and values of some positions [kv_heads, n, D], and the accumulators of dK and dV.

    Accumulators are float32 or wider.
    """

    keys: Tensor
    values: Tensor
    key_gradients: Tensor
    value_gradients: Tensor


def _span(buffers: KvBlock, start: int, end: int) -> KvBlock:
    """Views of these positions; `narrow` is one operator, an index with a slice is two or more."""
    return KvBlock(*(buffer.narrow(1, start, end - start) for buffer in buffers))


class ResidentLayer:
    """One layer's K, V, dK and dV [kv_heads, S, D] on the device: blocks are views.

    Positions are absolute, so that a write is idempotent.
    """

    def __init__(self, buffers: KvBlock) -> None:
        self.buffers = buffers
        self.kv_heads = buffers.keys.shape[0]

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Where to write K and V [kv_heads, l, D], shaped as `like`, of positions from `start`."""
        return self.own(start, like.shape[1])

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """K and V are written: keep them for every later subsequence."""

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        """K and V [kv_heads, tokens, D] of one subsequence."""
        span = _span(self.buffers, start, start + tokens)
        return span.keys, span.values

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """K and V of all positions before `start`, in blocks on the device."""
        if start:
            yield self.own(0, start)

    def own_gradients(self, start: int, tokens: int) -> KvBlock:
        """`own`, with the dK and dV that later subsequences have added."""
        return _span(self.buffers, start, start + tokens)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """`prefix` for `tokens` queries, which add dK and dV before they take the next block.

        In blocks, so that the operator's own dK and dV stay as small as those of the queries.
        """
        step = max(PREFIX_BLOCK_TOKENS, tokens)
        for first in range(0, start, step):
            yield _span(self.buffers, first, min(first + step, start))


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
        if not host:
            return torch.empty(shape, device=self.device, dtype=dtype)
        memory = self.take_host(dtype.itemsize * math.prod(shape), self.device)
        return memory.view(dtype).view(shape)

    def blocks(
        self, count: int, tokens: int, *, host: bool, gradients: Sequence[Tensor] = ()
    ) -> KvBlock:
        """K, V, dK and dV by `allocate`; dK and dV may be those of another cache."""
        kv = [self.allocate(count, tokens, self.dtype, host=host) for _ in range(2)]
        wide = accumulation_dtype(self.dtype)
        own = gradients or [self.allocate(count, tokens, wide, host=host) for _ in range(2)]
        return KvBlock(*kv, *own)


class KvLoad(NamedTuple):
    """A block on its way into a slot of a ring."""

    place: int
    block: KvBlock
    event: CopyEvent


class KvRing:
    """Device blocks of `tokens` tokens that all hosted layers of a stage share in turn.

    slots: how many (None: as many as the device needs). Where copies overlap, one is computed on,
    one is being filled, and the gradients of a third are on their way to the host.
    """

    def __init__(self, form: KvFormat, tokens: int, slots: int | None = None) -> None:
        self.tokens = tokens
        self.device = form.device
        self.slots = slots or ring_slots(form.device.type)
        self.buffers = form.blocks(self.slots, tokens, host=False)
        self.copies = CopyStreams(form.device)
        self._offloads = [DONE] * self.slots

    def fill(self, number: int, sources: Sequence[Tensor], after: Sequence[CopyEvent]) -> KvLoad:
        """Queue the copies of K and V, maybe of dK and dV, into a slot.

        after: the last writes of the sources. The slot itself waits for its own offload.
        """
        place = number % self.slots
        tokens = sources[0].shape[1]
        block = KvBlock(*(buffer[place].narrow(1, 0, tokens) for buffer in self.buffers))
        for into, source in zip(block, sources, strict=False):
            self.copies.copy_to_device(into, source, *after, self._offloads[place])
        return KvLoad(place, block, self.copies.h2d_event())

    def offload_gradients(self, load: KvLoad, host: KvBlock) -> None:
        """Queue the copies of dK and dV of a slot to the host."""
        self.copies.copy_to_host(load.block.key_gradients, host.key_gradients)
        self.copies.copy_to_host(load.block.value_gradients, host.value_gradients)
        self._offloads[load.place] = self.copies.d2h_event()


@dataclass(kw_only=True)
class GradientState:
    """Whether the dK and dV of a layer are still zero; the caches of a layer share it.

    written: their last copies to the host.
    """

    zero: bool = True
    written: CopyEvent = DONE


class HostedLayer:
    """The same in the host tier: blocks are copies in `ring`.

    While dK and dV are zero by `gradients`, their host memory is not read. The first backward, that
    of the last subsequence, begins with zeros on the device.
    """

    def __init__(self, host: KvBlock, ring: KvRing, gradients: GradientState) -> None:
        self.host = host
        self.gradients = gradients
        self.ring = ring
        self.kv_heads = host.keys.shape[0]
        self._kept = DONE  # the last copies of K and V to the host

    def _reload(self, source: Tensor) -> Tensor:
        into = torch.empty(source.shape, device=self.ring.device, dtype=source.dtype)
        self.ring.copies.copy_to_device(into, source, self._kept, self.gradients.written)
        return into

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return like.new_empty(like.shape), like.new_empty(like.shape)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        span = _span(self.host, start, start + key.shape[1])
        self.ring.copies.wait_for_offloads()  # those of the layer before
        self.ring.copies.copy_to_host(key, span.keys)
        self.ring.copies.copy_to_host(value, span.values)
        self._kept = self.ring.copies.d2h_event()

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        span = _span(self.host, start, start + tokens)
        own = self._reload(span.keys), self._reload(span.values)
        self.ring.copies.h2d_event().wait()
        return own

    def own_gradients(self, start: int, tokens: int) -> KvBlock:
        self.ring.copies.wait_for_offloads()
        own = self.own(start, tokens)
        host = _span(self.host, start, start + tokens)[2:]
        if self.gradients.zero:
            assert start + tokens == self.host.keys.shape[1], "the last subsequence comes first"
            device = self.ring.device
            zeros = [torch.zeros(x.shape, device=device, dtype=x.dtype) for x in host]
            return KvBlock(*own, *zeros)
        block = KvBlock(*own, *(self._reload(source) for source in host))
        self.ring.copies.h2d_event().wait()
        return block

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for load, _ in self._blocks(start, 2):
            yield load.block.keys, load.block.values

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        for load, host in self._blocks(start, 2 if self.gradients.zero else 4):
            if self.gradients.zero:
                load.block.key_gradients.zero_()
                load.block.value_gradients.zero_()
            yield load.block
            self.ring.offload_gradients(load, host)
        self.gradients.zero = False
        self.gradients.written = self.ring.copies.d2h_event()

    def _blocks(self, start: int, kinds: int) -> Iterator[tuple[KvLoad, KvBlock]]:
        """(device block, its place in the host), with copies of the first `kinds` buffers.

        The next block is in flight while the caller computes on this one. A block that the caller
        writes back is not read again in this pass, so no copy waits for those of this pass.
        """
        before = self._kept, self.gradients.written
        loads = self._loads(start, kinds, before)
        ahead = next(loads, None)
        while ahead is not None:
            load, host = ahead
            ahead = next(loads, None)
            load.event.wait()
            yield load, host

    def _loads(
        self, start: int, kinds: int, before: tuple[CopyEvent, ...]
    ) -> Iterator[tuple[KvLoad, KvBlock]]:
        """Every step queues the copies of one block."""
        for number, first in enumerate(range(0, start, self.ring.tokens)):
            host = _span(self.host, first, min(first + self.ring.tokens, start))
            yield self.ring.fill(number, host[:kinds], before), host


LayerCache = ResidentLayer | HostedLayer


class KvCache:
    """The buffers of `layers` layers for `tokens` tokens.

    With a `ring` they lie in the host tier. The backward of a sequence must be over before the
    forward of the next sequence reuses the buffers. The cache shares dK and dV with the cache
    `gradients_of`, because only one sequence at a time has gradients.
    """

    def __init__(
        self,
        form: KvFormat,
        layers: int,
        tokens: int,
        ring: KvRing | None = None,
        gradients_of: KvCache | None = None,
    ) -> None:
        self.ring = ring
        self._gradients = [GradientState() for _ in range(layers)]
        shared: Sequence[Tensor] = ()
        if gradients_of is not None:
            self._gradients = gradients_of._gradients
            shared = gradients_of.buffers[2:]
        host = ring is not None
        self.buffers: KvBlock = form.blocks(layers, tokens, host=host, gradients=shared)
        self.clear_gradients()
        self.layers: list[LayerCache] = []
        for layer, state in enumerate(self._gradients):
            buffers = KvBlock(*(buffer[layer] for buffer in self.buffers))
            self.layers.append(
                HostedLayer(buffers, ring, state) if ring else ResidentLayer(buffers)
            )

    def clear_gradients(self) -> None:
        """Before the backward of a sequence: dK and dV are zero. Host memory is not written."""
        if self.ring is None:
            self.buffers.key_gradients.zero_()
            self.buffers.value_gradients.zero_()
        for state in self._gradients:
            state.zero = True

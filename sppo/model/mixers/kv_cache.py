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

from sppo.comm.collectives import Team
from sppo.config.models import Model
from sppo.model.mixers.divided_layer import DividedLayer
from sppo.model.mixers.kv_block import KvBlock, KvPair, span
from sppo.model.weights import accumulation_dtype
from sppo.offload.host_memory import DONE, CopyEvent, CopyStreams, TakeHost, host_memory
from sppo.plan.blocks.attention import PREFIX_BLOCK_TOKENS, ring_slots


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
        self.buffers = KvBlock(
            *form.kv(self.slots, tokens, host=False),
            *form.gradients(self.slots, tokens, host=False),
        )
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

    in_pieces = True

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

    def place(self, like: Tensor, start: int) -> KvPair:
        return like.new_empty(like.shape), like.new_empty(like.shape)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        keys, values = span(self.host[:2], start, start + key.shape[1])
        self.ring.copies.wait_for_offloads()  # those of the layer before
        self.ring.copies.copy_to_host(key, keys)
        self.ring.copies.copy_to_host(value, values)
        self._kept = self.ring.copies.d2h_event()

    def _pair(self, start: int, tokens: int) -> KvPair:
        keys, values = span(self.host[:2], start, start + tokens)
        own = self._reload(keys), self._reload(values)
        self.ring.copies.h2d_event().wait()
        return own

    def own(self, start: int, tokens: int) -> list[KvPair]:
        return [self._pair(start, tokens)]

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        self.ring.copies.wait_for_offloads()
        own = self._pair(start, tokens)
        if self.gradients.zero:
            assert start + tokens == self.host.keys.shape[1], "the last subsequence comes first"
            wide = self.host.key_gradients.dtype
            zeros = [torch.zeros(x.shape, device=x.device, dtype=wide) for x in own]
            return [KvBlock(*own, *zeros)]
        host = span(self.host[2:], start, start + tokens)
        block = KvBlock(*own, *map(self._reload, host))
        self.ring.copies.h2d_event().wait()
        return [block]

    def own_sums(self, start: int, own: list[KvBlock]) -> KvPair:
        return own[0].key_gradients, own[0].value_gradients

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
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
            host = KvBlock(*span(self.host, first, min(first + self.ring.tokens, start)))
            yield self.ring.fill(number, host[:kinds], before), host


LayerCache = ResidentLayer | HostedLayer | DividedLayer


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

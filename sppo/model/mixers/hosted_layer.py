"""K, V, dK and dV of one layer in the host tier: the prefix comes to the device in blocks.

The next block is copied while attention computes on the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.model.mixers.kv_block import KvBlock, KvFormat, KvPair, span
from sppo.offload.host_memory import DONE, CopyEvent, CopyStreams
from sppo.plan.blocks.attention import ring_slots

STATES, SUMS = slice(0, 2), slice(2, 4)
"""Of the buffers of a `KvBlock`: K and V, and dK and dV."""


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
    """A `LayerCache` in the host tier: blocks are copies in `ring`.

    While dK and dV are zero by `gradients`, their host memory is not read. The rank's first
    backward begins with zeros on the device. Without MSP that is the last subsequence's.
    """

    in_pieces = True

    def __init__(self, host: KvBlock, ring: KvRing, gradients: GradientState) -> None:
        self.host = host
        self.gradients = gradients
        self.ring = ring
        self.kv_heads = host.keys.shape[0]
        self._kept = DONE  # the last copies of K and V to the host

    def _places(self, kinds: slice, start: int, tokens: int) -> list[Tensor]:
        """Views of the host's buffers."""
        return span(tuple(self.host)[kinds], start, start + tokens)

    def on_device(self, host: Tensor, shape: Sequence[int]) -> Tensor:
        """A new tensor on the device, of the dtype of a host's buffer."""
        return torch.empty(shape, device=self.ring.device, dtype=host.dtype)

    def _reload(self, into: Tensor, source: Tensor) -> Tensor:
        self.ring.copies.copy_to_device(into, source, self._kept, self.gradients.written)
        return into

    def load(self, kinds: slice, start: int, tokens: int) -> Tensor:
        """K and V (`STATES`), or dK and dV (`SUMS`), on the device: [2, kv_heads, tokens, D]."""
        sources = self._places(kinds, start, tokens)
        packed = self.on_device(sources[0], (2, *sources[0].shape))
        for into, source in zip(packed, sources, strict=True):
            self._reload(into, source)
        self.ring.copies.h2d_event().wait()
        return packed

    def sums(self, start: int, tokens: int) -> Tensor:
        """dK and dV so far, packed as by `load`: zeros before the first backward."""
        if not self.gradients.zero:
            return self.load(SUMS, start, tokens)
        shape = (2, self.kv_heads, tokens, self.host.keys.shape[-1])
        return torch.zeros(shape, device=self.ring.device, dtype=self.host.key_gradients.dtype)

    def place(self, like: Tensor, start: int) -> KvPair:
        return like.new_empty(like.shape), like.new_empty(like.shape)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        self.ring.copies.wait_for_offloads()  # those of the layer before
        self.store(start, key, value)

    def store(self, start: int, key: Tensor, value: Tensor) -> None:
        """Queue the copies of K and V [kv_heads, n, D] of the positions from `start`."""
        keys, values = self._places(STATES, start, key.shape[1])
        self.ring.copies.copy_to_host(key, keys)
        self.ring.copies.copy_to_host(value, values)
        self._kept = self.ring.copies.d2h_event()

    def store_sums(self, start: int, sums: Tensor) -> None:
        """Queue the copies of dK and dV, packed [2, kv_heads, n, D]."""
        places = self._places(SUMS, start, sums.shape[2])
        for into, source in zip(places, sums, strict=True):
            self.ring.copies.copy_to_host(source, into)
        self.gradients.written = self.ring.copies.d2h_event()

    def own(self, start: int, tokens: int) -> list[KvPair]:
        sources = self._places(STATES, start, tokens)
        key, value = (
            self._reload(self.on_device(source, source.shape), source) for source in sources
        )
        self.ring.copies.h2d_event().wait()
        return [(key, value)]

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        end = self.host.keys.shape[1]
        assert not self.gradients.zero or start + tokens == end, "the last subsequence comes first"
        return self.own_with_sums(start, tokens)

    def own_with_sums(self, start: int, tokens: int) -> list[KvBlock]:
        """`own_gradients` of any positions."""
        self.ring.copies.wait_for_offloads()
        (own,) = self.own(start, tokens)
        return [KvBlock(*own, *self.sums(start, tokens))]

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

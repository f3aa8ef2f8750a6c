"""Slices of an MSP split: which rank has which positions, and what one layer exchanges.

In the forward every rank gets the K and V of every slice. In the backward every rank adds up dK and
dV of all positions that it attended to, and sends them to the rank of their slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.comm.messages import Channel, ReceiveWork, Transport
from sppo.engine.context import EngineContext
from sppo.model.mixers.hosted_layer import STATES, SUMS, HostedLayer
from sppo.model.mixers.kv_block import KvBlock, KvPair, span
from sppo.model.mixers.kv_cache import ResidentLayer
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


class OwnSlice(NamedTuple):
    """A rank's slice of a subsequence that begins at position `start`.

    span: positions of the slice. peers: by rank, the positions of all other slices.
    """

    start: int
    span: slice
    peers: dict[int, slice]


class MspGroup:
    """The ranks that compute the slices of an MSP split, as seen by one of them.

    spans: by subsequence, the positions of its slice. slices: by first position of its slice.
    start, end: first position of the split, and the one behind its last.
    """

    def __init__(self, plan: Plan, msp_split: MspSplit, rank: int, transport: Transport) -> None:
        self.msp_split = msp_split
        self.transport = transport
        self.start = plan.starts_tokens[msp_split.subsequences[0]]
        owner = msp_split.part % plan.pipeline_parallel
        self.helpers = [helper for helper in msp_split.ranks if helper != owner]
        self.spans: dict[int, slice] = {}
        self.slices: dict[int, OwnSlice] = {}
        for index, lengths in zip(msp_split.subsequences, msp_split.lengths_tokens, strict=True):
            bounds = list(accumulate(lengths, initial=plan.starts_tokens[index]))
            spans = [slice(*pair) for pair in pairwise(bounds)]
            peers = dict(zip(msp_split.ranks, spans, strict=True))
            own = peers.pop(rank)
            self.spans[index] = own
            self.slices[own.start] = OwnSlice(bounds[0], own, peers)
            self.end = bounds[-1]


@dataclass(frozen=True, kw_only=True)
class PackedReceive:
    """K and V, or dK and dV, of the positions `span`: packed [2, kv_heads, n, D]."""

    work: ReceiveWork
    packed: Tensor
    span: slice


class SliceExchange:
    """One layer's messages between the ranks of a group."""

    def __init__(self, group: MspGroup, context: EngineContext) -> None:
        self.group = group
        self.context = context
        self._in_flight: list[PackedReceive] = []

    def send(self, packed: Tensor, rank: int) -> None:
        self.group.transport.send(packed, rank, Channel.MSP_SLICES)

    def receive(self, like: Tensor, rank: int, positions: slice) -> PackedReceive:
        """Post the receive of two tensors [kv_heads, n, D] of these positions."""
        heads, _, width = like.shape
        packed = like.new_empty((2, heads, positions.stop - positions.start, width))
        self.context.label("staging", packed)
        work = self.group.transport.receive(packed, rank, Channel.MSP_SLICES)
        return PackedReceive(work=work, packed=packed, span=positions)

    def share(self, start: int, key: Tensor, value: Tensor) -> None:
        """Send K and V to the ranks of all other slices, and post the receives of theirs."""
        packed = torch.stack((key, value))
        peers = self.group.slices[start].peers
        self._in_flight += [self.receive(key, rank, positions) for rank, positions in peers.items()]
        for rank in peers:
            self.send(packed, rank)

    def received(self, before: float = inf) -> Iterator[PackedReceive]:
        """K and V of slices that begin before a position, each when it has arrived; once."""
        due = [receive for receive in self._in_flight if receive.span.start < before]
        self._in_flight = [receive for receive in self._in_flight if receive.span.start >= before]
        for receive in due:
            receive.work.wait()
            yield receive

    def receive_sums(self, like: Tensor, start: int) -> list[PackedReceive]:
        """Post the receives of dK and dV of the own slice, from the ranks of all others."""
        _, own, peers = self.group.slices[start]
        return [self.receive(like, rank, own) for rank in peers]


class SlicedLayer(ResidentLayer):
    """One layer's K and V on one rank of a group, with those of all slices, on the device.

    A slice is exchanged at once: its K and V are sent to the other ranks in one message.
    """

    in_pieces = False

    def __init__(self, resident: ResidentLayer, group: MspGroup, context: EngineContext) -> None:
        super().__init__(resident.buffers)
        self.group = group
        self.exchange = SliceExchange(group, context)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        self.exchange.share(start, key, value)

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """First the positions before this subsequence, while K and V of its slices are received."""
        first = self.group.slices[start].start
        yield from super().prefix(first, tokens)
        self.settle(start)
        if start > first:
            yield from self.own(first, start - first)

    def settle(self, before: float = inf) -> None:
        """Write received K and V to the buffers, of slices that begin before a position."""
        for receive in self.exchange.received(before):
            for buffer, tensor in zip(self.buffers[STATES], receive.packed, strict=True):
                buffer[:, receive.span].copy_(tensor)

    def send_later_gradients(self, start: int) -> None:
        """Begin of the own slice's backward: dK and dV of later slices are complete here."""
        for rank, positions in self.group.slices[start].peers.items():
            if positions.start > start:
                self._send_gradients(rank, positions)

    def _send_gradients(self, rank: int, positions: slice) -> None:
        gradients = self.buffers[SUMS]
        self.exchange.send(torch.stack([buffer[:, positions] for buffer in gradients]), rank)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """After the last block, ranks exchange the dK and dV of each other's slices."""
        yield from super().prefix_gradients(start, tokens)
        gradients = self.buffers[SUMS]
        receives = self.exchange.receive_sums(gradients[0], start)
        for rank, positions in self.group.slices[start].peers.items():
            if positions.start < start:
                self._send_gradients(rank, positions)
        for receive in receives:
            receive.work.wait()
            for buffer, tensor in zip(gradients, receive.packed, strict=True):
                buffer[:, receive.span].add_(tensor)


class HostedSlicedLayer:
    """The same in the host tier, on the buffers of the chunk's own layer.

    Received K and V are read on the device, and kept in the host tier for later subsequences. dK
    and dV of earlier slices of the same subsequence never reach the host: they are sent at once.
    """

    in_pieces = False

    def __init__(self, hosted: HostedLayer, group: MspGroup, context: EngineContext) -> None:
        self.hosted = hosted
        self.kv_heads = hosted.kv_heads
        self.group = group
        self.exchange = SliceExchange(group, context)

    def place(self, like: Tensor, start: int) -> KvPair:
        return self.hosted.place(like, start)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        self.hosted.keep(start, key, value)
        self.exchange.share(start, key, value)

    def own(self, start: int, tokens: int) -> list[KvPair]:
        return self.hosted.own(start, tokens)

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """As `SlicedLayer`; a backward that recomputes attention reloads the earlier slices."""
        first = self.group.slices[start].start
        yield from self.hosted.prefix(first, tokens)
        position = first
        for receive in self.exchange.received(start):
            key, value = receive.packed
            self.hosted.store(receive.span.start, key, value)
            position = receive.span.stop
            yield key, value
        for begin in range(position, start, self.hosted.ring.tokens):
            yield from self.hosted.own(begin, min(self.hosted.ring.tokens, start - begin))

    def settle(self) -> None:
        """Copy received K and V to the host tier, and let compute wait: then they are freed."""
        stored = False
        for receive in self.exchange.received():
            key, value = receive.packed
            self.hosted.store(receive.span.start, key, value)
            stored = True
        if stored:
            self.hosted.ring.copies.wait_for_offloads()

    def send_later_gradients(self, start: int) -> None:
        """See `SlicedLayer`."""
        for rank, positions in self.group.slices[start].peers.items():
            if positions.start > start:
                sums = self.hosted.sums(positions.start, positions.stop - positions.start)
                self.exchange.send(sums, rank)

    def own_gradients(self, start: int, tokens: int) -> list[KvBlock]:
        return self.hosted.own_with_sums(start, tokens)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """First the earlier slices of the subsequence: their ranks wait for dK and dV."""
        first, _, peers = self.group.slices[start]
        for rank, positions in peers.items():
            if positions.start < start:
                sums = self.hosted.sums(positions.start, positions.stop - positions.start)
                yield from self._blocks(positions, sums)
                self.exchange.send(sums, rank)
        yield from self.hosted.prefix_gradients(first, tokens)

    def _blocks(self, positions: slice, sums: Tensor) -> Iterator[KvBlock]:
        """Blocks of a slice, as short as those of the ring; `sums` has its dK and dV."""
        for first in range(positions.start, positions.stop, self.hosted.ring.tokens):
            tokens = min(self.hosted.ring.tokens, positions.stop - first)
            begin = first - positions.start
            states = self.hosted.load(STATES, first, tokens)
            yield KvBlock(*states, *span(tuple(sums), begin, begin + tokens))

    def own_sums(self, start: int, own: list[KvBlock]) -> KvPair:
        """dK and dV of the own slice, with those of all other slices."""
        sums = own[0].key_gradients, own[0].value_gradients
        for receive in self.exchange.receive_sums(sums[0], start):
            receive.work.wait()
            for total, tensor in zip(sums, receive.packed, strict=True):
                total.add_(tensor)
        return sums


SlicedLayers = SlicedLayer | HostedSlicedLayer


def sliced(
    layer: ResidentLayer | HostedLayer, group: MspGroup, context: EngineContext
) -> SlicedLayers:
    """A layer of a chunk as the ranks of a split use it."""
    if isinstance(layer, HostedLayer):
        return HostedSlicedLayer(layer, group, context)
    return SlicedLayer(layer, group, context)

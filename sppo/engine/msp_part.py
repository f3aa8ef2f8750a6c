"""A model chunk under MSP on one rank: messages of weights and of slices.

All slices of a subsequence are computed at the same time (paper sec. 6.2, docs/msp.md). In the
forward every rank gets the K and V of every slice, layer by layer. In the backward every rank adds
up dK and dV of all positions that it attended to, and sends them to the rank of their slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.comm.messages import Channel, ReceiveWork, Transport
from sppo.engine.context import EngineContext
from sppo.engine.helper_weights import HelperWeights, part_shapes
from sppo.engine.part import Part, StageBuffers
from sppo.model.mixers.kv_block import KvBlock, KvPair
from sppo.model.mixers.kv_cache import KvCache, ResidentLayer
from sppo.model.weights import Weights
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


@dataclass(frozen=True)
class _PackedReceive:
    """K and V, or dK and dV, of the positions `span`: packed [2, kv_heads, n, D]."""

    work: ReceiveWork
    packed: Tensor
    span: slice


class SlicedLayer(ResidentLayer):
    """One layer's K and V on one rank of a group, with those of all slices.

    A slice is exchanged at once: its K and V are sent to the other ranks in one message.
    """

    in_pieces = False

    def __init__(self, buffers: KvBlock, group: MspGroup, context: EngineContext) -> None:
        super().__init__(buffers)
        self.group = group
        self.context = context
        self._in_flight: list[_PackedReceive] = []

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """Send K and V to the ranks of all other slices, and post the receives of theirs."""
        packed = torch.stack((key, value))
        peers = self.group.slices[start].peers
        self._in_flight += [self._receive(key, rank, span) for rank, span in peers.items()]
        for rank in peers:
            self.group.transport.send(packed, rank, Channel.MSP_SLICES)

    def _receive(self, like: Tensor, rank: int, span: slice) -> _PackedReceive:
        """Post the receive of two tensors [kv_heads, n, D] of the positions `span`."""
        heads, _, width = like.shape
        packed = like.new_empty((2, heads, span.stop - span.start, width))
        self.context.label("staging", packed)
        work = self.group.transport.receive(packed, rank, Channel.MSP_SLICES)
        return _PackedReceive(work, packed, span)

    def prefix(self, start: int, tokens: int) -> Iterator[KvPair]:
        """First the positions before this subsequence, while K and V of its slices are received."""
        first = self.group.slices[start].start
        yield from super().prefix(first, tokens)
        self.settle(start)
        if start > first:
            yield from self.own(first, start - first)

    def settle(self, before: float = inf) -> None:
        """Write received K and V to the buffers, of slices that begin before a position."""
        due = [receive for receive in self._in_flight if receive.span.start < before]
        self._in_flight = [receive for receive in self._in_flight if receive.span.start >= before]
        for receive in due:
            receive.work.wait()
            for buffer, tensor in zip(self.buffers[:2], receive.packed, strict=True):
                buffer[:, receive.span].copy_(tensor)

    def send_later_gradients(self, start: int) -> None:
        """Begin of the own slice's backward: dK and dV of later slices are complete here."""
        for rank, span in self.group.slices[start].peers.items():
            if span.start > start:
                self._send_gradients(rank, span)

    def _send_gradients(self, rank: int, span: slice) -> None:
        packed = torch.stack([buffer[:, span] for buffer in self.buffers[2:]])
        self.group.transport.send(packed, rank, Channel.MSP_SLICES)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[KvBlock]:
        """After the last block, ranks exchange the dK and dV of each other's slices."""
        yield from super().prefix_gradients(start, tokens)
        _, own, peers = self.group.slices[start]
        gradients = self.buffers[2:]
        receives = [self._receive(gradients[0], rank, own) for rank in peers]
        for rank, span in peers.items():
            if span.start < start:
                self._send_gradients(rank, span)
        for receive in receives:
            receive.work.wait()
            for buffer, tensor in zip(gradients, receive.packed, strict=True):
                buffer[:, own].add_(tensor)


_KV, _GRADIENTS = slice(0, 2), slice(2, 4)
"""Which buffers of a KV cache."""


class MspPart(Part):
    """A rank's slices of an MSP split, and the messages between its owner and a helper.

    A helper offloads nothing. Receives return a function that waits for them.
    """

    def __init__(
        self, group: MspGroup, weights: Weights, cache: KvCache, buffers: StageBuffers
    ) -> None:
        self._layers: list[SlicedLayer] = []
        for layer in cache.layers:
            assert isinstance(layer, ResidentLayer), "MSP needs K and V on the device"
            self._layers.append(SlicedLayer(layer.buffers, group, buffers.context))
        split = group.msp_split
        super().__init__(split.part, weights, [self._layers], group.spans, buffers)
        self.group = group
        self.cache = cache
        self._weights = weights
        self._names = part_shapes(self.plan, self.index)
        self._packed: Tensor | None = None
        if isinstance(weights, HelperWeights):
            self._dropped = [self._in_all_layers(split.recompute_units)] * self.plan.subsequences

    def settle(self) -> None:
        """Complete the receives and sends of K and V of all slices, before the next compute."""
        for layer in self._layers:
            layer.settle()
        self.group.transport.flush(Channel.MSP_SLICES)

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        for layer in reversed(self._layers):
            layer.send_later_gradients(self.spans[subsequence].start)
        return super().backward(sequence, subsequence, grad, tokens)

    def _prefix_heads(self, buffers: slice) -> list[Tensor]:
        """Views [n, D] of all positions before the split, by buffer, layer and head.

        A view is contiguous, so a message needs no copy. No views where the split begins at 0.
        """
        if not self.group.start:
            return []
        return [
            head[: self.group.start]
            for buffer in self.cache.buffers[buffers]
            for layer in buffer
            for head in layer
        ]

    def _send(self, tensor: Tensor, rank: int) -> None:
        self.group.transport.send(tensor, rank, Channel.MSP_WEIGHTS)

    def _receive(self, into: Tensor, rank: int) -> ReceiveWork:
        return self.group.transport.receive(into, rank, Channel.MSP_WEIGHTS)

    def send_weights(self, helper: int, *, with_prefix: bool) -> None:
        """Owner: send the weights, and K and V of all earlier positions, to a helper."""
        if self._packed is None:
            values = [self._weights[name].value.reshape(-1) for name in self._names]
            self._packed = torch.cat(values)
        self._send(self._packed, helper)
        if helper == self.group.helpers[-1]:
            self._packed = None
        for head in self._prefix_heads(_KV) if with_prefix else ():
            self._send(head, helper)

    def receive_weights(self, owner: int, *, with_prefix: bool) -> Callable[[], None]:
        """Helper: post the receives of `send_weights`."""
        assert isinstance(self._weights, HelperWeights)
        works = [self._receive(self._weights.flat_values, owner)]
        works += [self._receive(head, owner) for head in self._prefix_heads(_KV) if with_prefix]

        def wait() -> None:
            for work in works:
                work.wait()

        return wait

    def send_gradients(self, owner: int) -> None:
        """Helper: send the weight gradients, and dK and dV of all earlier positions, and clear."""
        assert isinstance(self._weights, HelperWeights)
        self._send(self._weights.flat_gradients, owner)
        for head in self._prefix_heads(_GRADIENTS):
            self._send(head, owner)
        self.group.transport.flush(Channel.MSP_WEIGHTS)
        self._weights.flat_gradients.zero_()

    def receive_gradients(self, helper: int) -> Callable[[], None]:
        """Owner: post the receive of the weight gradients; its wait adds them and the dK and dV."""
        gradients = [self._weights[name].gradient for name in self._names]
        sizes = [gradient.numel() for gradient in gradients]
        flat = gradients[0].new_empty(sum(sizes))
        work = self._receive(flat, helper)

        def wait() -> None:
            work.wait()
            for gradient, received in zip(gradients, flat.split(sizes), strict=True):
                gradient.add_(received.view(gradient.shape))
            self._add_prefix_gradients(helper)
            self.group.transport.flush(Channel.MSP_WEIGHTS)

        return wait

    def _add_prefix_gradients(self, helper: int) -> None:
        """dK and dV of all earlier positions: one head is received while another is added."""
        heads = self._prefix_heads(_GRADIENTS)
        staging = [torch.empty_like(head) for head in heads[:2]]
        works = [self._receive(into, helper) for into in staging]
        for number, head in enumerate(heads):
            works[number].wait()
            head.add_(staging[number % 2])
            if number + 2 < len(heads):
                works.append(self._receive(staging[number % 2], helper))

"""A lent part on one rank: the weights that travel, and what slices tell each other.

All slices of a subsequence are computed at the same time. In the forward every rank gets every
slice's K and V, layer by layer; in the backward every rank adds up dK and dV of all positions that
it attended to, and hands them to the rank whose slice they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.comm.messages import Channel, ReceiveWork, Transport
from sppo.engine.borrowed_weights import HelperWeights, part_shapes
from sppo.engine.context import EngineContext
from sppo.engine.part import Part, StageBuffers
from sppo.model.mixers.kv_cache import Block, KvCache, LayerCache, ResidentLayer
from sppo.model.weights import Weights
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


class Peer(NamedTuple):
    """Another rank's slice of a subsequence: its positions."""

    rank: int
    span: slice


class MspGroup:
    """The ranks that compute a lent part together, as one of them sees them."""

    def __init__(self, plan: Plan, msp_split: MspSplit, rank: int, transport: Transport) -> None:
        self.msp_split = msp_split
        self.rank = rank
        self.transport = transport
        self.start = plan.starts_tokens[msp_split.subsequences[0]]
        owner = msp_split.part % plan.pipeline_parallel
        self.helpers = [other for other in msp_split.ranks if other != owner]
        self.spans: dict[int, slice] = {}
        self.starts: dict[int, int] = {}
        self._peers: dict[int, list[Peer]] = {}
        for index, lengths in zip(msp_split.subsequences, msp_split.lengths_tokens, strict=True):
            at = first = plan.starts_tokens[index]
            peers = []
            for other, tokens in zip(msp_split.ranks, lengths, strict=True):
                if other == rank:
                    self.spans[index] = slice(at, at + tokens)
                else:
                    peers.append(Peer(other, slice(at, at + tokens)))
                at += tokens
            mine = self.spans[index].start
            self.starts[mine], self._peers[mine] = first, peers
        self.end = at

    def peers(self, start: int) -> list[Peer]:
        """The other slices of the subsequence in which ours begins at position `start`."""
        return self._peers[start]

    def span_at(self, start: int) -> slice:
        """Our slice that begins at position `start`."""
        return next(span for span in self.spans.values() if span.start == start)


@dataclass(frozen=True)
class _Arriving:
    """Keys over values, or their gradients, of some positions."""

    work: ReceiveWork
    packed: Tensor
    span: slice


class SlicedLayer:
    """One layer's K and V on one rank of a group; `resident` holds them and their gradients."""

    def __init__(self, resident: ResidentLayer, group: MspGroup, context: EngineContext) -> None:
        self.resident = resident
        self.group = group
        self.context = context
        self.kv_heads = resident.kv_heads
        self._arriving: list[_Arriving] = []

    def place(self, like: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return self.resident.place(like, start)

    def keep(self, start: int, key: Tensor, value: Tensor) -> None:
        """They go to every other slice's rank, and theirs come."""
        packed = torch.stack((key, value))
        for peer in self.group.peers(start):
            self._arriving.append(self._expect(key, peer, peer.span))
        for peer in self.group.peers(start):
            self.group.transport.send(packed, peer.rank, Channel.MSP_SLICES)

    def _expect(self, like: Tensor, peer: Peer, span: slice) -> _Arriving:
        """Post the receive of two tensors [kv_heads, n, D] of the positions `span`."""
        heads, _, width = like.shape
        into = like.new_empty((2, heads, span.stop - span.start, width))
        self.context.label("staging", into)
        return _Arriving(
            self.group.transport.receive(into, peer.rank, Channel.MSP_SLICES), into, span
        )

    def own(self, start: int, tokens: int) -> tuple[Tensor, Tensor]:
        return self.resident.own(start, tokens)

    def prefix(self, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """First what was there before this subsequence, while earlier slices arrive."""
        first = self.group.starts[start]
        yield from self.resident.prefix(first)
        self.settle(start)
        if start > first:
            yield self.resident.own(first, start - first)

    def settle(self, before: int | None = None) -> None:
        """Take in K and V that have come, of slices that begin before a position or of all."""
        waiting = []
        buffers = self.resident.buffers
        for one in self._arriving:
            if before is not None and one.span.start >= before:
                waiting.append(one)
                continue
            one.work.wait()
            buffers.keys[:, one.span].copy_(one.packed[0])
            buffers.values[:, one.span].copy_(one.packed[1])
        self._arriving = waiting

    def own_gradients(self, start: int, tokens: int) -> Block:
        return self.resident.own_gradients(start, tokens)

    def tell_later(self, start: int) -> None:
        """Begin of our slice's backward: we add no more to dK and dV of later slices."""
        for peer in self.group.peers(start):
            if peer.span.start > start:
                self._tell(peer)

    def _tell(self, peer: Peer) -> None:
        gradients = [one[:, peer.span] for one in self.resident.buffers[2:]]
        self.group.transport.send(torch.stack(gradients), peer.rank, Channel.MSP_SLICES)

    def prefix_gradients(self, start: int, tokens: int) -> Iterator[Block]:
        """Behind the last block every rank gets what the others have found for its slice."""
        yield from self.resident.prefix_gradients(start, tokens)
        peers = self.group.peers(start)
        mine = self.group.span_at(start)
        gradients = self.resident.buffers[2:]
        arriving = [self._expect(gradients[0], peer, mine) for peer in peers]
        for peer in peers:
            if peer.span.start < start:
                self._tell(peer)
        for one in arriving:
            one.work.wait()
            for own, more in zip(gradients, one.packed, strict=True):
                own[:, mine].add_(more)


class SlicedCache:
    """The layers of a lent part; their buffers are those of `cache`."""

    def __init__(self, cache: KvCache, group: MspGroup, context: EngineContext) -> None:
        self.sliced: list[SlicedLayer] = []
        for layer in cache.layers:
            assert isinstance(layer, ResidentLayer), "K and V of a lent part lie on the device"
            self.sliced.append(SlicedLayer(layer, group, context))
        self.layers: list[LayerCache] = [*self.sliced]


_KV, _GRADIENTS = slice(0, 2), slice(2, 4)
"""Which buffers of a cache."""


class _Works:
    """Several receives as one, waited for once (gloo hangs the second time), then `then`."""

    def __init__(self, works: list[ReceiveWork], then: Callable[[], None] | None = None) -> None:
        self._works = works
        self._then = then

    def wait(self) -> None:
        while self._works:
            self._works.pop(0).wait()
        if self._then is not None:
            self._then()
            self._then = None


class MspPart(Part):
    """A rank's slices of a lent part, and the traffic between its owner and a helper.

    Nothing of a helper's slices goes to the host tier.
    """

    def __init__(
        self,
        plan: Plan,
        group: MspGroup,
        weights: Weights,
        cache: KvCache,
        buffers: StageBuffers,
        context: EngineContext,
    ) -> None:
        self._sliced = SlicedCache(cache, group, context)
        super().__init__(
            plan, group.msp_split.part, weights, [self._sliced], group.spans, buffers, context
        )
        self.group = group
        self.cache = cache
        self._weights = weights
        self._names = part_shapes(plan, self.index)
        self._packed: Tensor | None = None
        if isinstance(weights, HelperWeights):
            layers = range(len(plan.parts[self.index].layer_range))
            names = group.msp_split.recompute_units
            dropped = frozenset((layer, name) for layer in layers for name in names)
            self._dropped = [dropped] * plan.subsequences

    def settle(self) -> None:
        """K and V of other slices are taken in when they are needed: by what comes next."""
        for layer in self._sliced.sliced:
            layer.settle()
        self.group.transport.flush(Channel.MSP_SLICES)

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        for layer in reversed(self._sliced.sliced):
            layer.tell_later(self.span(subsequence).start)
        return super().backward(sequence, subsequence, grad, tokens)

    def _heads(self, kinds: slice) -> list[Tensor]:
        """Of all positions before the lent ones, each layer's and head's part of these buffers.

        Contiguous [n, D], so that they travel as they lie. None where nothing is before.
        """
        if not self.group.start:
            return []
        return [
            head[: self.group.start]
            for buffer in self.cache.buffers[kinds]
            for layer in buffer
            for head in layer
        ]

    def _send(self, tensor: Tensor, rank: int) -> None:
        self.group.transport.send(tensor, rank, Channel.MSP_WEIGHTS)

    def _receive(self, into: Tensor, rank: int) -> ReceiveWork:
        return self.group.transport.receive(into, rank, Channel.MSP_WEIGHTS)

    def lend(self, helper: int, *, with_prefix: bool) -> None:
        """Owner: weights, and K and V of all earlier positions, go to a helper."""
        if self._packed is None:
            values = [self._weights[name].value.reshape(-1) for name in self._names]
            self._packed = torch.cat(values)
        self._send(self._packed, helper)
        if helper == self.group.helpers[-1]:
            self._packed = None
        for head in self._heads(_KV) if with_prefix else ():
            self._send(head, helper)

    def borrow(self, owner: int, *, with_prefix: bool) -> ReceiveWork:
        """Helper: they come."""
        assert isinstance(self._weights, HelperWeights)
        works = [self._receive(self._weights.values, owner)]
        works += [self._receive(head, owner) for head in self._heads(_KV) if with_prefix]
        return _Works(works)

    def give_back(self, owner: int) -> None:
        """Helper: gradients of the weights, and dK and dV of all earlier positions, go home."""
        assert isinstance(self._weights, HelperWeights)
        self._send(self._weights.gradients, owner)
        for head in self._heads(_GRADIENTS):
            self._send(head, owner)
        self.group.transport.flush(Channel.MSP_WEIGHTS)
        self._weights.gradients.zero_()

    def collect(self, helper: int) -> ReceiveWork:
        """Owner: they come, and are added when the receipt is waited for."""
        gradients = [self._weights[name].gradient for name in self._names]
        flat = gradients[0].new_empty(sum(gradient.numel() for gradient in gradients))
        work = self._receive(flat, helper)

        def add() -> None:
            at = 0
            for gradient in gradients:
                gradient.add_(flat[at : at + gradient.numel()].view(gradient.shape))
                at += gradient.numel()
            self._add_prefix(helper)
            self.group.transport.flush(Channel.MSP_WEIGHTS)  # who gives back has got all

        return _Works([work], add)

    def _add_prefix(self, helper: int) -> None:
        """dK and dV of all earlier positions, one head on its way while another is added."""
        heads = self._heads(_GRADIENTS)
        rooms = [torch.empty_like(head) for head in heads[:2]]
        works = [self._receive(room, helper) for room in rooms]
        for number, head in enumerate(heads):
            works[number].wait()
            head.add_(rooms[number % 2])
            if number + 2 < len(heads):
                works.append(self._receive(rooms[number % 2], helper))

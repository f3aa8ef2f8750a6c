"""K and V of all positions before an MSP split, which helpers need, and the way back of dK and dV.

Messages between the owner of a chunk and a helper, in the channel of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sppo.comm.messages import Channel, ReceiveWork, Transport
from sppo.model.mixers.hosted_layer import STATES, SUMS, HostedLayer
from sppo.model.mixers.kv_cache import KvCache

Wait = Callable[[], None]
"""Waits for posted receives, and for what their contents are used for."""


class Prefix(Protocol):
    """The positions before a split in the cache of a rank."""

    def send_states(self, helper: int) -> None:
        """Owner: send K and V."""

    def receive_states(self, owner: int) -> Wait:
        """Helper: receive them."""

    def send_sums(self, owner: int) -> None:
        """Helper: send dK and dV."""

    def add_sums(self, helper: int) -> None:
        """Owner: receive them and add them to its own."""


class ResidentPrefix:
    """On the device: a message for each head of each tensor, a contiguous view that is not copied.

    tokens: positions before the split; 0 where it begins the sequence.
    """

    def __init__(self, cache: KvCache, tokens: int, transport: Transport) -> None:
        self.cache = cache
        self.tokens = tokens
        self.transport = transport

    def _heads(self, buffers: slice) -> list[Tensor]:
        """Views [tokens, D], by buffer, layer and head."""
        if not self.tokens:
            return []
        return [
            head[: self.tokens]
            for buffer in self.cache.buffers[buffers]
            for layer in buffer
            for head in layer
        ]

    def _receive(self, into: Tensor, rank: int) -> ReceiveWork:
        return self.transport.receive(into, rank, Channel.MSP_WEIGHTS)

    def send_states(self, helper: int) -> None:
        for head in self._heads(STATES):
            self.transport.send(head, helper, Channel.MSP_WEIGHTS)

    def receive_states(self, owner: int) -> Wait:
        works = [self._receive(head, owner) for head in self._heads(STATES)]

        def wait() -> None:
            for work in works:
                work.wait()

        return wait

    def send_sums(self, owner: int) -> None:
        for head in self._heads(SUMS):
            self.transport.send(head, owner, Channel.MSP_WEIGHTS)

    def add_sums(self, helper: int) -> None:
        """One head is received while another is added."""
        heads = self._heads(SUMS)
        staging = [torch.empty_like(head) for head in heads[:2]]
        works = [self._receive(into, helper) for into in staging]
        for number, head in enumerate(heads):
            works[number].wait()
            head.add_(staging[number % 2])
            if number + 2 < len(heads):
                works.append(self._receive(staging[number % 2], helper))


class _Place(NamedTuple):
    """Positions [start, start + tokens) of one layer."""

    layer: HostedLayer
    start: int
    tokens: int


IN_FLIGHT = 2
"""Blocks of a hosted prefix that are sent at a time, or received ahead."""


class HostedPrefix:
    """In the host tier: a message for each block of a layer, packed [2, kv_heads, n, D].

    A block passes the device of both ranks. Besides those in flight there is one in use, at most.
    Receives are posted when the first is waited for, so the sender waits for the helper.
    """

    def __init__(self, layers: Sequence[HostedLayer], tokens: int, transport: Transport) -> None:
        self.layers = layers
        self.tokens = tokens
        self.transport = transport

    def _places(self) -> Iterator[_Place]:
        for layer in self.layers:
            step = layer.ring.tokens
            for start in range(0, self.tokens, step):
                yield _Place(layer, start, min(step, self.tokens - start))

    def _send(self, kinds: slice, rank: int) -> None:
        for number, (layer, start, tokens) in enumerate(self._places(), 1):
            packed = layer.load(kinds, start, tokens)
            self.transport.send(packed, rank, Channel.MSP_WEIGHTS)
            if number % IN_FLIGHT == 0:
                self.transport.flush(Channel.MSP_WEIGHTS)

    def _receive(self, kinds: slice, rank: int) -> Iterator[tuple[_Place, Tensor]]:
        """The blocks of `_send`; the next is received while the caller uses one."""
        posted = (self._post(place, kinds, rank) for place in self._places())
        ahead = list(islice(posted, IN_FLIGHT))
        while ahead:
            place, packed, work = ahead.pop(0)
            work.wait()
            place.layer.ring.copies.wait_for_offloads()  # those of the block before
            yield place, packed
            del packed
            ahead += islice(posted, 1)

    def _post(self, place: _Place, kinds: slice, rank: int) -> tuple[_Place, Tensor, ReceiveWork]:
        layer = place.layer
        like = layer.host[kinds][0]
        shape = (2, layer.kv_heads, place.tokens, like.shape[-1])
        packed = layer.on_device(like, shape)
        return place, packed, self.transport.receive(packed, rank, Channel.MSP_WEIGHTS)

    def send_states(self, helper: int) -> None:
        self._send(STATES, helper)

    def receive_states(self, owner: int) -> Wait:
        def wait() -> None:
            for place, packed in self._receive(STATES, owner):
                place.layer.store(place.start, *packed)
                del packed

        return wait

    def send_sums(self, owner: int) -> None:
        self._send(SUMS, owner)

    def add_sums(self, helper: int) -> None:
        for (layer, start, tokens), received in self._receive(SUMS, helper):
            layer.store_sums(start, layer.sums(start, tokens).add_(received))
            del received


def prefix_of(cache: KvCache, tokens: int, transport: Transport) -> Prefix:
    """The first `tokens` positions of a cache."""
    hosted = [layer for layer in cache.layers if isinstance(layer, HostedLayer)]
    if hosted:
        return HostedPrefix(hosted, tokens, transport)
    return ResidentPrefix(cache, tokens, transport)

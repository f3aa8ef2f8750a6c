"""A part of the model: forward and backward of a subsequence, and what is kept between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sppo.engine.context import EngineContext
from sppo.model.decoder import PartModel, RotaryTable, Trace
from sppo.model.mixers.kv_cache import Cache, KvCache, KvRing
from sppo.model.recompute import BlockRecomputer
from sppo.model.weights import Weights
from sppo.offload.activation_store import ActivationStore
from sppo.offload.host_memory import HostArena
from sppo.plan.plan import Plan


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A subsequence between its forward and its backward.

    `edge` is the output's place in the graph: the output itself leaves with its message.
    """

    edge: GradientEdge
    trace: Trace


class StageBuffers:
    """What the parts of a stage share, sized by the plan: RoPE tables and the host arena."""

    def __init__(self, plan: Plan, stage: int, context: EngineContext) -> None:
        self.rotary = RotaryTable(plan.model, plan.sequence_tokens, context.device, context.dtype)
        each = plan.stages[stage].memory.host // plan.kv_sets
        self.arenas = [
            HostArena(each, context.device, context.take_host) for _ in range(plan.kv_sets)
        ]
        for arena in self.arenas:
            context.label("host", arena.memory)
        self.ring: KvRing | None = None
        if plan.kv_block_tokens:
            self.ring = KvRing(
                plan.model,
                plan.kv_block_tokens,
                context.device,
                context.dtype,
                shards=plan.sequence_parallel,
            )
            for buffer in self.ring.buffers:
                context.label("staging", buffer)

    def arena_of(self, sequence: int) -> HostArena:
        """A stack of its own for each sequence in flight."""
        return self.arenas[sequence % len(self.arenas)]


def make_caches(
    plan: Plan, index: int, tokens: int, buffers: StageBuffers, context: EngineContext
) -> list[KvCache]:
    """Buffers for the first `tokens` positions in one part, for every set of the plan."""
    caches: list[KvCache] = []
    for _ in range(plan.kv_sets):
        cache = KvCache(
            plan.model,
            len(plan.parts[index].layer_range),
            tokens,
            context.device,
            context.dtype,
            buffers.ring,
            caches[0] if caches else None,
            take_host=context.take_host,
            shards=plan.sequence_parallel,
        )
        caches.append(cache)
    return caches


class Part:
    """The compute of one part under one plan. It knows nothing of schedules or other parts.

    spans: the positions of each subsequence that are computed here.
    """

    def __init__(
        self,
        plan: Plan,
        index: int,
        weights: Weights,
        caches: Sequence[Cache],
        spans: Mapping[int, slice],
        buffers: StageBuffers,
        context: EngineContext,
    ) -> None:
        self.plan = plan
        self.index = index
        self.context = context
        self.buffers = buffers
        self.caches = caches
        mine = plan.parts[index]
        self.model = PartModel(plan.model, mine.layer_range, weights, context.team)
        self._spans = spans
        self._constants = weights.storage_keys()
        self._work: dict[tuple[int, int], _Work] = {}
        self._offload = mine.offload_units
        layers = range(len(mine.layer_range))
        self._dropped = [
            frozenset((layer, name) for layer in layers for name in names)
            for names in mine.recompute_units
        ]

    def span(self, subsequence: int) -> slice:
        return self._spans[subsequence]

    def forward(
        self, sequence: int, subsequence: int, x: Tensor, targets: Tensor | None, scale: float
    ) -> Tensor:
        """Hidden states for the next part, or this rank's part of the scaled loss on the last.

        x: token ids int64 [l] on the first part, hidden states [l / SP, h] on the others.
        """
        span = self.span(subsequence)
        cache = self.caches[sequence % len(self.caches)]
        recomputer = BlockRecomputer(
            model=self.plan.model,
            layers=self.model.layers,
            weights=self.model.weights,
            team=self.context.team,
            cache=cache,
            turns=self.buffers.rotary.turns[span],
            start=span.start,
        )
        store = ActivationStore(
            self._constants,
            self.context.label,
            dropped=self._dropped[subsequence],
            recomputer=recomputer,
        )
        hidden = self.model.embed(x) if self.model.first else x
        trace = Trace(store=store)
        with store.recording():
            output = self.model.forward(hidden, cache, self.buffers.rotary, span.start, trace)
            if targets is not None:
                output = self.model.loss(output, targets, scale, trace)
        store.close()
        self._work[(sequence, subsequence)] = _Work(edge=get_gradient_edge(output), trace=trace)
        return output.detach()

    def offload(self, sequence: int, subsequence: int) -> int:
        """Send the planned units to the host tier; returns bytes moved."""
        work = self._work[(sequence, subsequence)]
        arena = self.buffers.arena_of(sequence)
        return work.trace.store.offload(self._offload[subsequence], arena)

    def fetch(self, sequence: int, subsequence: int) -> int:
        """Bring them back; returns bytes moved."""
        work = self._work[(sequence, subsequence)]
        return work.trace.store.fetch(self.context.device, self.buffers.arena_of(sequence))

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        """Gradient of the part's input [l / SP, h]; None on the first part: it takes token ids."""
        work = self._work.pop((sequence, subsequence))
        work.trace.store.release()
        torch.autograd.backward(work.edge, grad)
        (input_gradient,) = work.trace.input_gradients
        if tokens is None:
            return input_gradient
        self.model.embed_backward(tokens, input_gradient)
        return None

    def assert_empty(self) -> None:
        """End of a step: everything that was kept has been used."""
        assert not self._work, f"left behind: {sorted(self._work)}"

    def abandon(self) -> None:
        """After an error: drop what an unfinished step kept."""
        self._work.clear()

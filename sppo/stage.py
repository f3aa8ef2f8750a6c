"""The parts of a pipeline stage: forward and backward of a subsequence, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sppo.activations import ActivationStore
from sppo.hostmem import HostArena
from sppo.kvcache import KvCache, KvRing
from sppo.model import PartModel, RotaryTable, StageWeights, Trace
from sppo.plan import Plan
from sppo.recompute import Remaker
from sppo.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A subsequence between its forward and its backward.

    `edge` is the output's place in the graph: the output itself leaves with its message.
    """

    edge: GradientEdge
    trace: Trace


class StageBuffers:
    """What the parts of a stage share, sized by the plan: RoPE tables and the host arena."""

    def __init__(self, plan: Plan, stage: int, runtime: Runtime) -> None:
        self.rotary = RotaryTable(plan.model, plan.sequence_tokens, runtime.device, runtime.dtype)
        each = plan.stages[stage].memory.host // plan.kv_sets
        self.arenas = [HostArena(each, runtime.device) for _ in range(plan.kv_sets)]
        for arena in self.arenas:
            runtime.label("host", arena.memory)
        self.ring: KvRing | None = None
        if plan.kv_block_tokens:
            self.ring = KvRing(plan.model, plan.kv_block_tokens, runtime.device, runtime.dtype)
            for buffer in self.ring.buffers:
                runtime.label("staging", buffer)

    def arena_of(self, sequence: int) -> HostArena:
        """A stack of its own for each sequence in flight."""
        return self.arenas[sequence % len(self.arenas)]


class Part:
    """The compute of one part under one plan. It knows nothing of schedules or other parts."""

    def __init__(
        self, plan: Plan, index: int, weights: StageWeights, buffers: StageBuffers, runtime: Runtime
    ) -> None:
        self.plan = plan
        self.index = index
        self.runtime = runtime
        self.buffers = buffers
        mine = plan.parts[index]
        self.model = PartModel(plan.model, mine.layer_range, weights)
        self.caches: list[KvCache] = []
        for _ in range(plan.kv_sets):
            cache = KvCache(
                plan.model,
                len(mine.layer_range),
                plan.sequence_tokens,
                runtime.device,
                runtime.dtype,
                buffers.ring,
                self.caches[0] if self.caches else None,
            )
            self.caches.append(cache)
        for kind, tensors in self.tensors().items():
            for tensor in tensors:
                runtime.label(kind, tensor)
        self._constants = weights.storage_keys()
        self._work: dict[tuple[int, int], _Work] = {}
        self._offload = mine.offload_units
        layers = range(len(mine.layer_range))
        self._dropped = [
            frozenset((layer, name) for layer in layers for name in names)
            for names in mine.recompute_units
        ]

    def span(self, subsequence: int) -> slice:
        start = self.plan.starts_tokens[subsequence]
        return slice(start, start + self.plan.lengths_tokens[subsequence])

    def forward(
        self, sequence: int, subsequence: int, x: Tensor, targets: Tensor | None, scale: float
    ) -> Tensor:
        """Hidden states for the next part, or the scaled loss on the last (targets given).

        x: token ids int64 [l] on the first part, hidden states [l, h] on the others.
        """
        span = self.span(subsequence)
        cache = self.caches[sequence % len(self.caches)]
        maker = Remaker(
            model=self.plan.model,
            layers=self.model.layers,
            weights=self.model.weights,
            cache=cache,
            turns=self.buffers.rotary.turns[span],
            start=span.start,
        )
        store = ActivationStore(
            self._constants, self.runtime.label, dropped=self._dropped[subsequence], maker=maker
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
        return work.trace.store.fetch(self.runtime.device, self.buffers.arena_of(sequence))

    def clear_gradients(self) -> None:
        """Zero dK and dV, before the first backward of a sequence."""
        self.caches[0].clear_gradients()

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        """Gradient of the part's input [l, h]; None on the first part, which takes token ids."""
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

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        kv = [buffer for cache in self.caches for buffer in cache.buffers[:2]]
        dkv = list(self.caches[0].buffers[2:])
        if self.buffers.ring is not None:
            return {"host": [*kv, *dkv]}
        return {"kv": kv, "dkv": dkv}


class Stage:
    """One rank's parts, by their number in the model, and what they share."""

    def __init__(self, plan: Plan, index: int, weights: StageWeights, runtime: Runtime) -> None:
        self.plan = plan
        self.index = index
        self.weights = weights
        self.runtime = runtime
        self.buffers = StageBuffers(plan, index, runtime)
        self.parts = {
            part: Part(plan, part, weights, self.buffers, runtime)
            for part in range(index, len(plan.parts), plan.pipeline_parallel)
        }

    def assert_empty(self) -> None:
        for part in self.parts.values():
            part.assert_empty()
        assert all(arena.used_bytes == 0 for arena in self.buffers.arenas), "bytes left behind"

    @property
    def kv_moved_bytes(self) -> int:
        """Bytes of K, V, dK and dV between host and device since the stage was made."""
        return sum(cache.moved_bytes for part in self.parts.values() for cache in part.caches)

    def abandon(self) -> None:
        for part in self.parts.values():
            part.abandon()
        for arena in self.buffers.arenas:
            arena.used_bytes = 0

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        """KV, dKV and the host tier of this stage, for the accounting."""
        totals: dict[Any, list[Tensor]] = {"host": [arena.memory for arena in self.buffers.arenas]}
        if self.buffers.ring is not None:
            totals["staging"] = list(self.buffers.ring.buffers)
        for part in self.parts.values():
            for kind, tensors in part.tensors().items():
                totals.setdefault(kind, []).extend(tensors)
        return totals

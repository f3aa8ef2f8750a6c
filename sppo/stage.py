"""The parts of a pipeline stage: forward and backward of a subsequence, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sppo.activations import ActivationStore
from sppo.hostmem import HostArena
from sppo.kvcache import KvCache
from sppo.model import PartModel, RotaryTable, StageWeights
from sppo.plan import Plan
from sppo.recompute import Remaker
from sppo.runtime import Runtime


@dataclass(kw_only=True)
class _Work:
    """A subsequence between its forward and its backward.

    `edge` is the output's place in the graph: the output itself leaves with its message.
    """

    edge: GradientEdge
    store: ActivationStore
    input_gradients: list[Tensor] = field(default_factory=list)


class StageBuffers:
    """What the parts of a stage share, sized by the plan: RoPE tables and the host arena."""

    def __init__(self, plan: Plan, stage: int, runtime: Runtime) -> None:
        self.rotary = RotaryTable(plan.model, plan.sequence_tokens, runtime.device, runtime.dtype)
        self.arena = HostArena(plan.stages[stage].memory.host, runtime.device)
        runtime.label("host", self.arena.memory)


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
        self.cache = KvCache(
            plan.model,
            len(mine.layer_range),
            plan.sequence_tokens,
            runtime.device,
            runtime.dtype,
        )
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
        maker = Remaker(
            model=self.plan.model,
            layers=self.model.layers,
            weights=self.model.weights,
            cache=self.cache,
            turns=self.buffers.rotary.turns[span],
            start=span.start,
        )
        store = ActivationStore(
            self._constants, self.runtime.label, dropped=self._dropped[subsequence], maker=maker
        )
        hidden = self.model.embed(x) if self.model.first else x
        sink: list[Tensor] = []
        with store.recording():
            output = self.model.forward(
                hidden, sink, self.cache, self.buffers.rotary, span.start, store
            )
            if targets is not None:
                output = self.model.loss(output, targets, scale, store)
        store.close()
        self._work[(sequence, subsequence)] = _Work(
            edge=get_gradient_edge(output), store=store, input_gradients=sink
        )
        return output.detach()

    def offload(self, sequence: int, subsequence: int) -> int:
        """Send the planned units to the host tier; returns bytes moved."""
        work = self._work[(sequence, subsequence)]
        return work.store.offload(self._offload[subsequence], self.buffers.arena)

    def fetch(self, sequence: int, subsequence: int) -> int:
        """Bring them back; returns bytes moved."""
        work = self._work[(sequence, subsequence)]
        return work.store.fetch(self.runtime.device, self.buffers.arena)

    def begin_backward(self) -> None:
        """Before the first backward of a sequence."""
        self.cache.clear_gradients()

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        """Gradient of the part's input [l, h]; None on the first part, which takes token ids."""
        work = self._work.pop((sequence, subsequence))
        work.store.release()
        torch.autograd.backward(work.edge, grad)
        (input_gradient,) = work.input_gradients
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
        return {
            "kv": [self.cache.keys, self.cache.values],
            "dkv": [self.cache.key_gradients, self.cache.value_gradients],
        }


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
        assert self.buffers.arena.used_bytes == 0, "the host arena is not empty"

    def abandon(self) -> None:
        for part in self.parts.values():
            part.abandon()
        self.buffers.arena.used_bytes = 0

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        """KV, dKV and the host tier of this stage, for the accounting."""
        totals: dict[Any, list[Tensor]] = {"host": [self.buffers.arena.memory]}
        for part in self.parts.values():
            for kind, tensors in part.tensors().items():
                totals.setdefault(kind, []).extend(tensors)
        return totals

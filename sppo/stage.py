"""One pipeline stage: the forward and backward of one subsequence, and what it keeps between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sppo.activations import ActivationStore
from sppo.hostmem import HostArena
from sppo.kvcache import KvCache
from sppo.model import RotaryTable, StageModel, StageWeights
from sppo.plan import Plan
from sppo.runtime import Runtime


@dataclass(kw_only=True)
class _Work:
    """A subsequence between its forward and its backward."""

    output: Tensor
    store: ActivationStore
    input_gradients: list[Tensor] = field(default_factory=list)


class SequenceBuffers:
    """What is sized by the plan: KV and dKV, RoPE tables, the host arena. Taken once."""

    def __init__(self, plan: Plan, stage: int, runtime: Runtime) -> None:
        mine = plan.stages[stage]
        device, dtype = runtime.device, runtime.dtype
        self.cache = KvCache(plan.model, len(mine.layer_range), plan.sequence_tokens, device, dtype)
        self.rotary = RotaryTable(plan.model, plan.sequence_tokens, device, dtype)
        self.arena = HostArena(mine.memory.host, device)
        runtime.label("host", self.arena.memory)
        for tensor in (self.cache.keys, self.cache.values):
            runtime.label("kv", tensor)
        for tensor in (self.cache.key_gradients, self.cache.value_gradients):
            runtime.label("dkv", tensor)


class Stage:
    """The compute of one stage under one plan. It knows nothing of schedules or other stages."""

    def __init__(self, plan: Plan, index: int, weights: StageWeights, runtime: Runtime) -> None:
        self.plan = plan
        self.index = index
        self.runtime = runtime
        self.model = StageModel(plan.model, plan.stages[index].layer_range, weights)
        self.buffers = SequenceBuffers(plan, index, runtime)
        self._constants = weights.storage_keys() | self.buffers.rotary.storage_keys()
        self._work: dict[tuple[int, int], _Work] = {}
        self._offload = plan.stages[index].offload_units

    def span(self, subsequence: int) -> slice:
        start = self.plan.starts_tokens[subsequence]
        return slice(start, start + self.plan.lengths_tokens[subsequence])

    def forward(
        self, sequence: int, subsequence: int, x: Tensor, targets: Tensor | None, scale: float
    ) -> Tensor:
        """Hidden states for the next stage, or the scaled loss on the last (targets given).

        x: token ids int64 [l] on the first stage, hidden states [l, h] on the others.
        """
        start = self.span(subsequence).start
        store = ActivationStore(self._constants, self.runtime.label)
        hidden = self.model.embed(x) if self.model.first else x
        sink: list[Tensor] = []
        with store.recording():
            output = self.model.forward(
                hidden, sink, self.buffers.cache, self.buffers.rotary, start, store
            )
            if targets is not None:
                output = self.model.loss(output, targets, scale, store)
        store.close()
        self._work[(sequence, subsequence)] = _Work(
            output=output, store=store, input_gradients=sink
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
        self.buffers.cache.clear_gradients()

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        """Gradient of the stage's input [l, h]; None on the first stage, which takes token ids."""
        work = self._work.pop((sequence, subsequence))
        self.buffers.arena.synchronize_compute()
        work.store.release()
        torch.autograd.backward(work.output, grad)
        (input_gradient,) = work.input_gradients
        if tokens is None:
            return input_gradient
        self.model.embed_backward(tokens, input_gradient)
        return None

    def assert_empty(self) -> None:
        """End of a step: everything that was kept has been used."""
        assert not self._work, f"left behind: {sorted(self._work)}"
        assert self.buffers.arena.used_bytes == 0, "the host arena is not empty"

    def abandon(self) -> None:
        """After an error: drop what an unfinished step kept."""
        self._work.clear()
        self.buffers.arena.used_bytes = 0

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        cache = self.buffers.cache
        return {
            "kv": [cache.keys, cache.values],
            "dkv": [cache.key_gradients, cache.value_gradients],
            "host": [self.buffers.arena.memory],
        }

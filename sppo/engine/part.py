"""A model chunk (`Part`): forward and backward of a subsequence, and the saved tensors between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from sppo.comm.mesh import RankGroups
from sppo.engine.context import EngineContext
from sppo.model.decoder import PartModel, Trace, rotary_turns
from sppo.model.mixers.hosted_layer import KvRing
from sppo.model.mixers.kv_block import KvFormat
from sppo.model.mixers.kv_cache import KvCache
from sppo.model.mixers.layer_cache import LayerCache
from sppo.model.recompute import BlockRecomputer
from sppo.model.weights import Weights
from sppo.offload.activation_store import ActivationStore
from sppo.offload.host_memory import HostArena
from sppo.plan.plan import Plan


class StageBuffers:
    """Buffers that the chunks of a stage share, sized by the plan; with plan, context and groups.

    `turns`: see `rotary_turns`. `arenas`: host memory of offloaded tensors, one stack for each
    sequence in flight. `ring`: device blocks of K and V in the host tier, if there. `tensors`: by
    kind, every buffer of the stage but its own weights, for the accounting.
    """

    def __init__(self, plan: Plan, context: EngineContext, groups: RankGroups) -> None:
        assert plan.context_parallel == 1 or not (plan.kv_block_tokens or plan.msp_splits)
        assert not (plan.sharded_weights and plan.msp_splits)
        assert plan.exchange_pieces == 1 or plan.may_exchange_in_pieces
        self.plan = plan
        self.context = context
        self.groups = groups
        self.tensors: dict[Any, list[Tensor]] = defaultdict(list)
        model, tokens = plan.model, plan.sequence_tokens
        self.turns = rotary_turns(model, tokens, context.device, context.dtype)
        stage = groups.coordinate.stage
        capacity = plan.stages[stage].memory.host // plan.kv_sets
        self.arenas = [
            HostArena(capacity, context.device, context.take_host) for _ in range(plan.kv_sets)
        ]
        self.add("host", [arena.memory for arena in self.arenas])
        self.kv_format = KvFormat(
            model=plan.model,
            device=context.device,
            dtype=context.dtype,
            shards=plan.head_parallel,
            take_host=context.take_host,
        )
        self.ring: KvRing | None = None
        self._last_gradients: list[Tensor] = []
        if plan.kv_block_tokens:
            self.ring = KvRing(self.kv_format, plan.kv_block_tokens, context.ring_slots)
            self.add("staging", self.ring.buffers)
        elif last := self._last_tokens(stage):
            of_a_layer = self.kv_format.gradients(1, last, host=False)
            self._last_gradients = [tensor.squeeze(0) for tensor in of_a_layer]
            self.add("dkv", self._last_gradients)

    def _last_tokens(self, stage: int) -> int:
        """Tokens of the last subsequence whose dK and dV have buffers of a layer."""
        plan = self.plan
        if plan.context_parallel > 1:
            return 0
        return plan.sequence_tokens - min(map(plan.summed_tokens, plan.own_parts(stage)))

    def add(self, kind: Any, tensors: Iterable[Tensor]) -> None:
        """Label buffers of the stage for the accounting, and list them in `tensors`."""
        for tensor in tensors:
            self.context.label(kind, tensor)
            self.tensors[kind].append(tensor)

    def arena_of(self, sequence: int) -> HostArena:
        return self.arenas[sequence % len(self.arenas)]

    def make_caches(self, part: int) -> list[KvCache]:
        """K, V, dK and dV of a sequence in a chunk: a cache for every KV set."""
        plan, divisor = self.plan, self.plan.context_parallel
        caches: list[KvCache] = []
        for _ in range(plan.kv_sets):
            cache = KvCache(
                self.kv_format,
                len(plan.parts[part].layer_range),
                plan.sequence_tokens // divisor,
                self.ring,
                caches[0] if caches else None,
                summed_tokens=plan.summed_tokens(part) // divisor,
                last=self._last_gradients,
                context=self.groups.context,
            )
            caches.append(cache)
        return self._labelled(caches)

    def make_helper_cache(self, part: int, tokens: int) -> KvCache:
        """K, V, dK and dV of the first `tokens` positions in a chunk that the stage helps with."""
        layers = len(self.plan.parts[part].layer_range)
        cache = KvCache(self.kv_format, layers, tokens, self.ring)
        return self._labelled([cache])[0]

    def _labelled(self, caches: list[KvCache]) -> list[KvCache]:
        for cache in caches:
            self.add("host" if self.ring else "kv", cache.buffers[:2])
        self.add("host" if self.ring else "dkv", caches[0].buffers[2:])
        return caches


class Part:
    """The compute of one chunk under one plan, without knowledge of schedules or other chunks.

    caches: for every KV set, those of the chunk's layers. spans: positions of each subsequence that
    are computed here.
    """

    def __init__(
        self,
        index: int,
        weights: Weights,
        caches: Sequence[Sequence[LayerCache]],
        spans: Mapping[int, slice],
        buffers: StageBuffers,
    ) -> None:
        self.plan = buffers.plan
        self.index = index
        self.context = buffers.context
        self.buffers = buffers
        self.caches = caches
        chunk = self.plan.parts[index]
        ranks = replace(buffers.groups.stage_ranks, exchange_pieces=self.plan.exchange_pieces)
        self.model = PartModel(self.plan.model, chunk.layer_range, weights, ranks)
        self.spans = spans
        self._constants = weights.storage_keys()
        # By (sequence, subsequence) between forward and backward: the output's place in the graph,
        # because the output itself is freed when its message is sent, and its trace.
        self._in_flight: dict[tuple[int, int], tuple[GradientEdge, Trace]] = {}
        self._offload = chunk.offload_units
        self._dropped = [self._in_all_layers(names) for names in chunk.recompute_units]

    def _in_all_layers(self, names: Iterable[str]) -> frozenset[tuple[int, str]]:
        """Keys of saved tensors that are dropped in every layer of the chunk."""
        layers = range(len(self.model.layers))
        return frozenset((layer, name) for layer in layers for name in names)

    def forward(
        self, sequence: int, subsequence: int, x: Tensor, targets: Tensor | None, scale: float
    ) -> Tensor:
        """Hidden states [l / SP, h] for the next chunk, or this rank's share of the scaled loss.

        x: token ids int64 [l] on the first chunk, hidden states [l / SP, h] on all later ones.
        targets: int64 [l] on the last chunk.
        """
        span = self.spans[subsequence]
        turns = self.buffers.turns[span]
        caches = self.caches[sequence % len(self.caches)]
        recomputer = BlockRecomputer(part=self.model, caches=caches, turns=turns, start=span.start)
        dropped = self._dropped[subsequence]
        store = ActivationStore(self._constants, self.context.label, dropped, recomputer)
        hidden = self.model.embed(x) if self.model.first else x
        trace = Trace(store=store)
        with store.recording():
            output = self.model.forward(hidden, caches, turns, span.start, trace)
            if targets is not None:
                output = self.model.loss(output, targets, scale, trace)
        self._in_flight[sequence, subsequence] = get_gradient_edge(output), trace
        return output.detach()

    def warm_kernels(self, tokens: int) -> None:
        """Forward and backward of the first layer, and of the head, on `tokens` positions.

        They end with the sequence, or with the sums of dK and dV where `tokens` is another length
        than the last subsequence's. Before a step, on CUDA: a kernel's first call may wait for the
        whole device, and so for a receive that was posted ahead. The results are thrown away.
        Gradients, K and V are left with any values: a step writes them before it reads them.
        """
        end, width = self.plan.sequence_tokens, self.plan.model.hidden
        if tokens != self.plan.lengths_tokens[-1]:
            end = max(tokens, self.plan.summed_tokens(self.index))
        span = slice(end - tokens, end)
        brief = copy(self)
        brief.caches = [layers[:1] for layers in self.caches[:1]]
        brief.spans = {0: span}
        brief._in_flight = {}
        device, dtype = self.context.device, self.context.dtype
        ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        states = torch.zeros(
            tokens // self.plan.sequence_parallel, width, dtype=dtype, device=device
        )
        last = self.index + 1 == len(self.plan.parts)
        x = ids if self.model.first else states
        brief.forward(0, 0, x, ids if last else None, 1.0)
        brief.backward(0, 0, None if last else states, ids if self.model.first else None)

    def offload(self, sequence: int, subsequence: int) -> int:
        """Offload the saved tensors of the plan; returns the bytes (paper sec. 5.1)."""
        _, trace = self._in_flight[sequence, subsequence]
        return trace.store.offload(self._offload[subsequence], self.buffers.arena_of(sequence))

    def reload(self, sequence: int, subsequence: int) -> int:
        """Reload the offloaded tensors of a subsequence; returns the bytes."""
        _, trace = self._in_flight[sequence, subsequence]
        return trace.store.reload(self.context.device, self.buffers.arena_of(sequence))

    def backward(
        self, sequence: int, subsequence: int, grad: Tensor | None, tokens: Tensor | None
    ) -> Tensor | None:
        """Gradient of the chunk's input [l / SP, h]; None on the first chunk, which has token ids.

        grad: that of the output [l / SP, h], None for the loss. tokens: int64 [l], on the first
        chunk only.
        """
        edge, trace = self._in_flight.pop((sequence, subsequence))
        trace.store.release()
        torch.autograd.backward(edge, grad)
        if self.model.weights.blocks is not None:
            self.model.weights.blocks.end_sums()
        (input_gradient,) = trace.input_gradients
        if tokens is None:
            return input_gradient
        self.model.embed_backward(tokens, input_gradient)
        return None

    def assert_empty(self) -> None:
        """End of a step: every subsequence has had its backward."""
        assert not self._in_flight, f"without a backward: {sorted(self._in_flight)}"
        blocks = self.model.weights.blocks
        assert blocks is None or blocks.is_idle, "a collective of weights is in flight"

    def abort(self) -> None:
        """After an error: drop the saved tensors of an unfinished step."""
        self._in_flight.clear()
        if self.model.weights.blocks is not None:
            self.model.weights.blocks.abort()

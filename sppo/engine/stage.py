"""One rank's stage: its own parts, and the slices it computes for itself and for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sppo.comm.messages import Transport
from sppo.engine.borrowed_weights import HelperRoom
from sppo.engine.context import EngineContext
from sppo.engine.msp_part import MspGroup, MspPart
from sppo.engine.part import Part, StageBuffers, make_caches
from sppo.model.mixers.kv_cache import KvCache
from sppo.model.weights import StageWeights, Weights
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


class Stage:
    """One rank's parts, by their number in the model, and what they share.

    `transport` is needed where the plan lends: slices exchange keys and values as they compute.
    """

    def __init__(
        self,
        plan: Plan,
        index: int,
        weights: StageWeights,
        context: EngineContext,
        transport: Transport | None = None,
    ) -> None:
        self.plan = plan
        self.index = index
        self.weights = weights
        self.context = context
        self.buffers = StageBuffers(plan, index, context)
        self._caches: dict[int, list[KvCache]] = {}
        starts = zip(plan.starts_tokens, plan.lengths_tokens, strict=True)
        spans = {number: slice(at, at + tokens) for number, (at, tokens) in enumerate(starts)}
        self.parts: dict[int, Part] = {}
        for part in range(index, len(plan.parts), plan.pipeline_parallel):
            caches = self._make(part, plan.sequence_tokens)
            self.parts[part] = Part(plan, part, weights, caches, spans, self.buffers, context)
        mine = [msp_split for msp_split in plan.msp_splits if index in msp_split.ranks]
        self.borrowed = HelperRoom(plan, [one for one in mine if not self._owns(one)], context)
        self._msp_parts = [self._share(msp_split, transport) for msp_split in mine]

    def _owns(self, msp_split: MspSplit) -> bool:
        return msp_split.part in self.parts

    def _make(self, part: int, tokens: int) -> list[KvCache]:
        """K, V and their gradients of the first `tokens` positions in a part."""
        self._caches[part] = make_caches(self.plan, part, tokens, self.buffers, self.context)
        for kind, tensors in self._tensors_of(self._caches[part]).items():
            for tensor in tensors:
                self.context.label(kind, tensor)
        return self._caches[part]

    def _share(self, msp_split: MspSplit, transport: Transport | None) -> MspPart:
        assert transport is not None, "a plan that lends needs a transport"
        group = MspGroup(self.plan, msp_split, self.index, transport)
        weights: Weights = self.weights
        if not self._owns(msp_split):
            self._make(msp_split.part, group.end)
            weights = self.borrowed.of(msp_split)
        (cache,) = self._caches[msp_split.part]
        return MspPart(self.plan, group, weights, cache, self.buffers, self.context)

    def part(self, part: int, subsequence: int) -> Part:
        """What computes (this rank's slice of) a subsequence in a part, its K and V in place."""
        found = self.parts.get(part)
        for msp_part in self._msp_parts:
            if msp_part.index == part:
                if subsequence in msp_part.group.msp_split.subsequences:
                    found = msp_part
                msp_part.settle()
        assert found is not None
        return found

    def msp_part(self, part: int, subsequence: int) -> MspPart:
        """The same where the part is lent."""
        found = self.part(part, subsequence)
        assert isinstance(found, MspPart)
        return found

    def clear_gradients(self, part: int) -> None:
        """Clear dK and dV, before the first backward of a sequence."""
        self._caches[part][0].clear_gradients()

    def let_go(self) -> None:
        """Behind a forward, before a fetch or backward: what was sent before is off the device."""
        for arena in self.buffers.arenas:
            arena.let_go()

    def _every_part(self) -> list[Part]:
        return [*self.parts.values(), *self._msp_parts]

    def assert_empty(self) -> None:
        for part in self._every_part():
            part.assert_empty()
        assert all(arena.used_bytes == 0 for arena in self.buffers.arenas), "bytes left behind"

    @property
    def kv_moved_bytes(self) -> int:
        """Bytes of K, V, dK and dV between host and device since the stage was made."""
        return sum(cache.moved_bytes for caches in self._caches.values() for cache in caches)

    def abandon(self) -> None:
        for part in self._every_part():
            part.abandon()
        for arena in self.buffers.arenas:
            arena.abandon()

    def _tensors_of(self, caches: list[KvCache]) -> Mapping[Any, list[Tensor]]:
        kv = [buffer for cache in caches for buffer in cache.buffers[:2]]
        dkv = list(caches[0].buffers[2:])
        if self.buffers.ring is not None:
            return {"host": [*kv, *dkv]}
        return {"kv": kv, "dkv": dkv}

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        """What this stage holds but its own weights, for the accounting."""
        totals: dict[Any, list[Tensor]] = {"host": [arena.memory for arena in self.buffers.arenas]}
        if self.buffers.ring is not None:
            totals["staging"] = list(self.buffers.ring.buffers)
        for caches in self._caches.values():
            for kind, tensors in self._tensors_of(caches).items():
                totals.setdefault(kind, []).extend(tensors)
        for kind, tensor in self.borrowed.tensors().items():
            totals.setdefault(kind, []).append(tensor)
        return totals

"""One rank's stage: its own chunks, and its slices of the MSP splits that it owns or helps with."""

from __future__ import annotations

from sppo.comm.mesh import RankGroups
from sppo.engine.context import EngineContext
from sppo.engine.helper_weights import helper_weights
from sppo.engine.msp_part import MspPart
from sppo.engine.msp_slices import MspGroup
from sppo.engine.part import Part, StageBuffers
from sppo.model.mixers.kv_cache import KvCache
from sppo.model.weights import StageWeights, Weights
from sppo.plan.plan import Plan


class Stage:
    """One rank's chunks, by their index in the model, and the buffers that they share."""

    def __init__(
        self, plan: Plan, weights: StageWeights, context: EngineContext, groups: RankGroups
    ) -> None:
        self.plan = plan
        self.index = groups.coordinate.stage
        self.weights = weights
        self.context = context
        self.groups = groups
        self.buffers = StageBuffers(plan, context, groups)
        self._caches: dict[int, list[KvCache]] = {}
        starts = zip(plan.starts_tokens, plan.lengths_tokens, strict=True)
        spans = {n: slice(start, start + tokens) for n, (start, tokens) in enumerate(starts)}
        self.parts: dict[int, Part] = {}
        for part in range(self.index, len(plan.parts), plan.pipeline_parallel):
            self._caches[part] = self.buffers.make_caches(part)
            layers = [cache.layers for cache in self._caches[part]]
            self.parts[part] = Part(part, weights, layers, spans, self.buffers)
        self._msp_parts = self._make_msp_parts()

    def _make_msp_parts(self) -> list[MspPart]:
        """The slices of this rank; a helper gets buffers for weights, K and V of its splits."""
        plan = self.plan
        msp_splits = [split for split in plan.msp_splits if self.index in split.ranks]
        helped = [split for split in msp_splits if split.part not in self.parts]
        helpers = helper_weights(plan, helped, self.context)
        for helper in helpers.values():
            self.buffers.add("weights", [helper.flat_values])
            self.buffers.add("gradients", [helper.flat_gradients])
        msp_parts = []
        for split in msp_splits:
            group = MspGroup(plan, split, self.index, self.groups.transport)
            if split.part in helpers:
                caches = [self.buffers.make_helper_cache(split.part, group.end)]
                self._caches[split.part] = caches
            (cache,) = self._caches[split.part]
            weights: Weights = helpers.get(split.part) or self.weights
            msp_parts.append(MspPart(group, weights, cache, self.buffers))
        return msp_parts

    def part(self, part: int, subsequence: int) -> Part:
        """The compute of (this rank's slice of) a subsequence in a chunk, its K and V in place."""
        chosen = self.parts.get(part)
        for msp_part in self._msp_parts:
            if msp_part.index == part:
                if subsequence in msp_part.group.msp_split.subsequences:
                    chosen = msp_part
                msp_part.settle()
        assert chosen is not None
        return chosen

    def warm_kernels(self) -> None:
        """Call every kernel of a step once, of each count of tokens: see `Part.warm_kernels`.

        The last subsequence comes first, as in a backward.
        """
        rows = self.plan.rank_tokens(self.index)
        counts = {tokens for row in rows for tokens in row if tokens}
        last = self.plan.lengths_tokens[-1]
        for part in self.parts.values():
            for tokens in sorted(counts, key=lambda tokens: (tokens != last, tokens)):
                part.warm_kernels(tokens)

    def clear_gradients(self, part: int) -> None:
        """Clear dK and dV, before the first backward of a sequence."""
        self._caches[part][0].clear_gradients()

    def wait_for_offloads(self) -> None:
        """After a forward, before a reload or backward: earlier offloads have freed the device."""
        for arena in self.buffers.arenas:
            arena.copies.wait_for_offloads()

    @property
    def kv_moved_bytes(self) -> int:
        """Bytes of K, V, dK and dV between host and device since the stage was made."""
        return self.buffers.ring.copies.moved_bytes if self.buffers.ring else 0

    def assert_empty(self) -> None:
        """End of a step: every subsequence has had its backward, and the arenas are empty."""
        for part in (*self.parts.values(), *self._msp_parts):
            part.assert_empty()
        assert all(arena.used_bytes == 0 for arena in self.buffers.arenas), "bytes left in the host"

    def abort(self) -> None:
        """After an error: drop the saved tensors of an unfinished step."""
        for part in (*self.parts.values(), *self._msp_parts):
            part.abort()
        for arena in self.buffers.arenas:
            arena.abort()

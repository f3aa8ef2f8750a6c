"""The decisions of a stage's saved tensors: kept, offloaded or recomputed. No torch.

A `StageProblem` is one stage of one layout: the saved tensors of its chunks, the order of its
computes, the memory limits, and the cost of every decision. `policies.py` and the exact solver
(`integer_program.py`) decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sppo.config.errors import HOST_MEMORY, LayoutDoesNotFit
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.times import copy_ns, recompute_ns
from sppo.memory_model.decisions import KEEP, Decision, StageDecisions
from sppo.memory_model.model_state import fixed_bytes
from sppo.memory_model.msp import helper_bytes
from sppo.memory_model.stage_memory import StageMemoryModel
from sppo.plan.blocks import gradient_element_bytes
from sppo.plan.layout import Layout
from sppo.plan.parts import PartShape, SubsequenceCost
from sppo.plan.plan import PartPlan, StageMemory, StagePlan
from sppo.planner.activations.stage_times import ChunkTimes, StageTimes, hosted_kv_seconds


def exposed_copies_ns(profile: Hardware, size_bytes: int, cost: SubsequenceCost) -> int:
    """Time of one D2H and one H2D copy, less the compute of `cost` that hides them.

    Synchronous copies are not hidden: they take compute time in full.
    """
    d2h = copy_ns(size_bytes, profile.d2h_bytes_per_second)
    h2d = copy_ns(size_bytes, profile.h2d_bytes_per_second)
    if not profile.overlapped_copies:
        return d2h + h2d
    return max(0, d2h - cost.forward_ns) + max(0, h2d - cost.backward_ns)


def require_room(
    workload: Workload,
    layout: Layout,
    stage: int,
    shapes: Sequence[PartShape],
    helped_bytes: int = 0,
) -> None:
    """Raise LayoutDoesNotFit if model state, KV and dKV of a stage are too much for the device.

    shapes: its chunks. helped_bytes: of chunks that the stage helps with.
    """
    limit = workload.device_memory_bytes
    if limit is None:
        return
    fixed = fixed_bytes(shapes, layout, stage, workload.cluster.device)
    excess = fixed + helped_bytes - limit
    if excess > 0:
        raise LayoutDoesNotFit(excess, "device memory for model state, KV and dKV alone")


@dataclass(frozen=True, kw_only=True)
class StageProblem(StageMemoryModel):
    """One stage, and the added time of its decisions."""

    def excess_bytes(self, memory: StageMemory) -> int:
        """Device bytes over the limit; not positive if it fits."""
        limit = self.workload.device_memory_bytes
        return 0 if limit is None else memory.device_peak - limit

    def require_room(self) -> None:
        """Raise LayoutDoesNotFit if model state, KV and dKV alone are too much for the device."""
        if self.workload.device_memory_bytes is not None:
            weights, gradients, *states = helper_bytes(self.msp_roles)
            hosted = bool(self.layout.kv_block_tokens)
            helped = weights + gradients + (0 if hosted else sum(states))
            require_room(self.workload, self.layout, self.stage, self.shapes, helped)

    def require_device_fit(self, memory: StageMemory) -> None:
        """Raise LayoutDoesNotFit if device memory is short."""
        excess = self.excess_bytes(memory)
        if excess > 0:
            first = self.shapes[0].layers[0]
            raise LayoutDoesNotFit(
                excess, f"device memory on the stage that begins with layer {first}"
            )

    def require_fit(self, memory: StageMemory) -> None:
        """Raise LayoutDoesNotFit if device or host memory is short."""
        self.require_device_fit(memory)
        limit = self.workload.host_memory_bytes
        if limit is not None and memory.host + memory.kv_host > limit:
            raise LayoutDoesNotFit(memory.host + memory.kv_host - limit, HOST_MEMORY)

    def added_ns(self, decisions: StageDecisions) -> int:
        """Compute time that these decisions add to a step of this stage.

        Overlapped copies add only their excess over the compute that hides them.
        """

        def of(part: int, row: Sequence[Decision]) -> int:
            return sum(self._added_ns(part, *entry) for entry in enumerate(row))

        return sum(self._by_row(decisions, of))

    def _added_ns(self, part: int, index: int, decision: Decision) -> int:
        known = self._known[part][index]
        key = "added", decision
        if key not in known:
            known[key] = self._time_added_ns(part, index, decision)
        added: int = known[key]
        return added

    def _time_added_ns(self, part: int, index: int, decision: Decision) -> int:
        size = self.offloaded_bytes(part, index, decision)
        following = self.costs[part][min(index + 1, len(self.lengths) - 1)]
        copies = exposed_copies_ns(self.profile, size, following)
        return self.recompute_ns(part, index, decision.recompute) + copies

    def recompute_ns(self, part: int, index: int, names: tuple[str, ...]) -> int:
        """Time to recompute these saved tensors of a subsequence in all blocks of a chunk."""
        shape = self.shapes[part]
        return len(shape.layers) * recompute_ns(
            shape.model,
            self.profile,
            names,
            start=self.layout.starts_tokens[index],
            tokens=self.tokens[part][index],
            shards=shape.shards,
            ulysses=shape.ulysses,
            context=shape.context,
        )

    def times(self, decisions: StageDecisions) -> StageTimes:
        """Times of the stage's own computes and copies, as `plan_costs` charges them.

        Those of slices: `plan_slice_costs`.
        """
        chunks = self._by_row(decisions, self._chunk_times)
        zeroed = sum(map(self._zeroed_ns, self._all_shapes))
        return StageTimes(chunks, zeroed)

    def _chunk_times(self, part: int, row: Sequence[Decision]) -> ChunkTimes:
        forward, backward = self.base_ns(part)
        offloaded = [size.offloaded for size in self._row_bytes(part, row)]
        d2h, h2d = (
            [copy_ns(size, rate) if size else 0 for size in offloaded]
            for rate in (self.profile.d2h_bytes_per_second, self.profile.h2d_bytes_per_second)
        )
        recomputed = [
            base + self.recompute_ns(part, index, decision.recompute)
            for index, (base, decision) in enumerate(zip(backward, row, strict=True))
        ]
        return ChunkTimes(forward, recomputed, d2h, h2d)

    def base_ns(self, part: int) -> tuple[list[int], list[int]]:
        """Forwards and backwards of a chunk by subsequence, with copies of hosted K and V."""
        known = self._known[part][0]
        if "base" not in known:
            added = hosted_kv_seconds(self.layout, self.shapes[part].model, self.profile)
            layers = len(self.shapes[part].layers)
            rows = list(zip(self.costs[part], added, strict=True))
            known["base"] = (
                [cost.forward_ns + round(layers * kv[0] * 1e9) for cost, kv in rows],
                [cost.backward_ns + layers * round(kv[1] * 1e9) for cost, kv in rows],
            )
        base: tuple[list[int], list[int]] = known["base"]
        return base

    def _zeroed_ns(self, shape: PartShape) -> int:
        if self.layout.kv_block_tokens:
            return 0
        element_bytes = gradient_element_bytes(self.workload.element_bytes)
        size = shape.kv_bytes(self.workload.sequence_tokens, element_bytes)
        return round(size / self.profile.memory_bytes_per_second * 1e9)

    def offload(self, part: int, index: int, share: float, decision: Decision = KEEP) -> Decision:
        """Offload at least `share` of what may be offloaded, in whole tensors of a layer."""
        if not share and not decision.offload:
            return decision
        known = self._known[part][index]
        key = share, decision.recompute
        if key not in known:
            known[key] = self._offload(part, index, share, decision)
        offloaded: Decision = known[key]
        return offloaded

    def _offload(self, part: int, index: int, share: float, decision: Decision) -> Decision:
        shape, tokens = self.shapes[part], self.tokens[part][index]
        wanted = share * shape.offloadable_bytes(tokens, decision.recompute)
        chosen = []
        for unit in shape.offloadable:
            if unit.name not in decision.recompute and wanted > 0:
                size = shape.saved_tensor_bytes(unit, tokens)
                n = min(shape.copies[unit.name], -int(-wanted // size))
                wanted -= n * size
                if n:
                    chosen.append((unit.name, n))
        return replace(decision, offload=tuple(chosen))

    def hidden_share(self, part: int, index: int, decision: Decision = KEEP) -> float:
        """alpha_i = min(1, BW_D2H * T_(i+1) / A_i); 0 for the last subsequence.

        From the constraint alpha_i A_i <= BW_D2H * T of the paper's sec. 5.2. T is the forward time
        of the next subsequence, A_i the bytes that may be offloaded.
        """
        if index + 1 >= len(self.lengths):
            return 0.0
        known = self._known[part][index]
        key = "hidden", decision.recompute
        if key not in known:
            tokens = self.tokens[part][index]
            candidates = self.shapes[part].offloadable_bytes(tokens, decision.recompute)
            forward_ns = self.costs[part][index + 1].forward_ns
            hidden = int(self.profile.d2h_bytes_per_second * forward_ns / 1e9)
            known[key] = min(1.0, hidden / candidates) if candidates else 0.0
        share: float = known[key]
        return share

    def stage_plan(self, decisions: StageDecisions, memory: StageMemory) -> StagePlan:
        """The stage of a Plan with these decisions, which take this memory.

        Raises LayoutDoesNotFit if they do not fit.
        """
        self.require_fit(memory)
        parts = tuple(self._part_plan(part, row) for part, row in enumerate(decisions))
        return StagePlan(parts=parts, memory=memory)

    def _part_plan(self, part: int, row: Sequence[Decision]) -> PartPlan:
        shape = self.shapes[part]
        return PartPlan(
            layers=(shape.layers.start, shape.layers.stop),
            head=shape.head,
            offload_share=tuple(
                self.offloaded_bytes(part, index, decision) / self.kept_bytes(part, index, decision)
                for index, decision in enumerate(row)
            ),
            offload_units=tuple(
                tuple(
                    shape.key(name, number) for name, n in decision.offload for number in range(n)
                )
                for decision in row
            ),
            recompute_units=tuple(decision.recompute for decision in row),
        )

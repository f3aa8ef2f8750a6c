"""The fates of a stage's saved tensors: kept, sent to the host, or made again. No torch.

A `StageProblem` is one stage of one layout: what its parts keep, in which order, under which
limits, and what every fate costs. `policies.py` and the exact solver (`exact.py`) decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sppo.costs import SubsequenceCost, copy_ns, recompute_ns
from sppo.errors import Short
from sppo.hostslots import slot_bytes
from sppo.memory import (
    Loan,
    borrowed_bytes,
    fixed_bytes,
    kept_peak,
    stage_memory,
)
from sppo.orders import Compute
from sppo.plan import PartPlan, StageMemory, StagePlan
from sppo.profile import Profile
from sppo.shapes import PartShape

DEVICE_MARGIN_BYTES = 1024**2
"""Left free under a device limit: what an allocator rounds and a kernel takes unseen."""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """One subsequence in one part: (unit, layers whose tensor travels), and names to make again.

    Of a unit that travels in `n` layers, it is those of the first n layers.
    """

    offload: tuple[tuple[str, int], ...] = ()
    recompute: tuple[str, ...] = ()


KEEP = Fate()

StageFates = Sequence[Sequence[Fate]]
"""By [part][subsequence]."""


@dataclass(frozen=True, kw_only=True)
class StageProblem:
    """What one stage has to decide. `costs` are its compute times by [part][subsequence].

    tokens: what this rank computes, by [part][subsequence]: own parts, then borrowed ones. Less
    than `lengths` where a subsequence is cut into slices. Borrowed parts have no fates: what a
    helper keeps stays.
    """

    shapes: tuple[PartShape, ...]
    tokens: tuple[tuple[int, ...], ...]
    computes: tuple[Compute, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    messages_ahead: int
    profile: Profile
    costs: tuple[tuple[SubsequenceCost, ...], ...]
    device_limit_bytes: int | None
    host_limit_bytes: int | None
    kv_block_tokens: int = 0
    kv_sets: int = 1
    loans: tuple[Loan, ...] = ()

    def kept_bytes(self, part: int, index: int, fate: Fate) -> int:
        """Bytes left by a forward under this fate, before anything travels."""
        return self.shapes[part].kept_bytes(self.tokens[part][index], fate.recompute)

    def moved_bytes(self, part: int, index: int, fate: Fate) -> int:
        shape, tokens = self.shapes[part], self.tokens[part][index]
        return sum(shape.unit_bytes(shape.units[name], tokens) * n for name, n in fate.offload)

    def host_bytes(self, fates: StageFates) -> int:
        """The host arenas, one per set of K and V: every unit that travels in a slot of its own."""
        return self.kv_sets * sum(
            n * slot_bytes(shape.unit_bytes(shape.units[name], tokens))
            for shape, row, part in zip(self.shapes, self.tokens, fates, strict=False)
            for tokens, fate in zip(row, part, strict=True)
            for name, n in fate.offload
        )

    def memory(self, fates: StageFates) -> StageMemory:
        """The whole memory model under these fates."""
        parts = range(len(self.shapes))
        indices = range(len(self.lengths))
        kept = [[self.kept_bytes(p, i, fates[p][i]) for i in indices] for p in parts]
        moved = [[self.moved_bytes(p, i, fates[p][i]) for i in indices] for p in parts]
        borrowed = [loan for loan in self.loans if loan.borrowed]
        for loan, row in zip(borrowed, self.tokens[len(self.shapes) :], strict=True):
            kept.append([loan.shape.kept_bytes(tokens, loan.recompute) for tokens in row])
            moved.append([0] * len(row))
        return stage_memory(
            self.shapes,
            self.starts,
            self.lengths,
            messages_ahead=self.messages_ahead,
            kept_peak_bytes=kept_peak(
                self.computes, kept, moved, overlapped=self.profile.overlapped_copies
            ),
            host_bytes=self.host_bytes(fates),
            dropped=[[fate.recompute for fate in part] for part in fates],
            kv_block_tokens=self.kv_block_tokens,
            kv_sets=self.kv_sets,
            loans=self.loans,
        )

    def excess_bytes(self, memory: StageMemory) -> int:
        """Device bytes over the limit; not positive if it fits."""
        if self.device_limit_bytes is None:
            return 0
        return memory.total + DEVICE_MARGIN_BYTES - self.device_limit_bytes

    def require_room(self) -> None:
        """Raise Short if model state, KV and dKV alone are too much: then no fate helps."""
        if self.device_limit_bytes is None:
            return
        fixed = fixed_bytes(self.shapes, sum(self.lengths), self.kv_block_tokens, self.kv_sets)
        fixed += sum(borrowed_bytes(self.loans))
        excess = fixed - self.device_limit_bytes
        if excess > 0:
            raise Short(excess, "device memory for model state, KV and dKV alone")

    def require_fit(self, memory: StageMemory) -> None:
        """Raise Short if device or host memory is."""
        excess = self.excess_bytes(memory)
        if excess > 0:
            first = self.shapes[0].layers[0]
            raise Short(excess, f"device memory on the stage that begins with layer {first}")
        limit = self.host_limit_bytes
        if limit is not None and memory.host + memory.kv_host > limit:
            raise Short(memory.host + memory.kv_host - limit, "host memory")

    def added_ns(self, fates: StageFates) -> int:
        """Compute time that these fates add to a step of this stage.

        Where copies overlap, only what is longer than the compute it hides under.
        """
        total = 0
        for part, row in enumerate(fates):
            for index, fate in enumerate(row):
                total += self._fate_ns(part, index, fate)
        return total

    def _fate_ns(self, part: int, index: int, fate: Fate) -> int:
        shape, profile = self.shapes[part], self.profile
        again = len(shape.layers) * recompute_ns(
            shape.model,
            profile,
            fate.recompute,
            start=self.starts[index],
            tokens=self.tokens[part][index],
            shards=shape.shards,
        )
        moved = self.moved_bytes(part, index, fate)
        out = copy_ns(moved, profile.d2h_bytes_per_second)
        back = copy_ns(moved, profile.h2d_bytes_per_second)
        if profile.overlapped_copies:
            following = min(index + 1, len(self.lengths) - 1)
            cost = self.costs[part][following]
            out = max(0, out - cost.forward_ns)
            back = max(0, back - cost.backward_ns)
        return again + out + back

    @cached_property
    def hidden_bytes(self) -> tuple[tuple[int, ...], ...]:
        """What leaves while the next subsequence computes: BW_D2H * T_(i+1), by part.

        Paper sec. 5.2, from its constraint alpha_i A_i <= BW_D2H * T; T is the forward time of the
        next subsequence. One entry per subsequence but the last.
        """
        rate = self.profile.d2h_bytes_per_second
        return tuple(
            tuple(int(rate * cost.forward_ns / 1e9) for cost in row[1:]) for row in self.costs
        )

    def offload(self, part: int, index: int, share: float, fate: Fate = KEEP) -> Fate:
        """Send at least `share` of what may travel, to within one unit (one tensor of a layer)."""
        shape, tokens = self.shapes[part], self.tokens[part][index]
        wanted = share * shape.candidate_bytes(tokens, fate.recompute)
        chosen = []
        for unit in shape.travelling:
            if wanted <= 0:
                break
            if unit.name not in fate.recompute:
                size = shape.unit_bytes(unit, tokens)
                n = min(shape.copies[unit.name], -int(-wanted // size))
                wanted -= n * size
                if n:
                    chosen.append((unit.name, n))
        return replace(fate, offload=tuple(chosen))

    def hidden_share(self, part: int, index: int, fate: Fate = KEEP) -> float:
        """alpha_i = min(1, BW_D2H * T_(i+1) / A_i), A_i what may travel; 0 for the last."""
        if index + 1 >= len(self.lengths):
            return 0.0
        shape = self.shapes[part]
        candidates = shape.candidate_bytes(self.tokens[part][index], fate.recompute)
        return min(1.0, self.hidden_bytes[part][index] / candidates) if candidates else 0.0

    def stage_plan(self, fates: StageFates) -> StagePlan:
        """These fates as a part of a Plan. Raises Short if they do not fit."""
        memory = self.memory(fates)
        self.require_fit(memory)
        parts = tuple(self._part_plan(part, row) for part, row in enumerate(fates))
        return StagePlan(parts=parts, memory=memory)

    def _part_plan(self, part: int, row: Sequence[Fate]) -> PartPlan:
        shape = self.shapes[part]
        return PartPlan(
            layers=(shape.layers.start, shape.layers.stop),
            head=shape.head,
            offload_share=tuple(
                self.moved_bytes(part, index, fate) / self.kept_bytes(part, index, fate)
                for index, fate in enumerate(row)
            ),
            offload_units=tuple(
                tuple(shape.key(name, number) for name, n in fate.offload for number in range(n))
                for fate in row
            ),
            recompute_units=tuple(fate.recompute for fate in row),
        )

"""What one stage holds under given decisions of its saved tensors, compute by compute. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from sppo.config.hardware import Hardware
from sppo.config.sizes import slot_bytes
from sppo.memory_model.live_bytes import ChunkEnds, LiveBytes, message_bytes
from sppo.memory_model.model_state import ring_bytes, stage_memory
from sppo.memory_model.msp import MspRole, exchange_bytes, exchanged_bytes
from sppo.memory_model.temporaries import PartKind
from sppo.memory_model.temporary_peaks import largest_bytes, temporary_peaks
from sppo.memory_model.untracked import untracked
from sppo.plan.blocks import BlockSpec, block_of
from sppo.plan.blocks.temporaries import TemporaryPeak
from sppo.plan.parts import PartShape, SubsequenceCost
from sppo.plan.plan import StageMemory, Untracked
from sppo.schedule.order import Compute

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One subsequence in one part: (unit, layers whose tensor travels), and names to make again.

    Of a unit that travels in `n` layers, it is those of the first n layers.
    """

    offload: tuple[tuple[str, int], ...] = ()
    recompute: tuple[str, ...] = ()


KEEP = Decision()


class _Sizes(NamedTuple):
    """Bytes of a subsequence in a part; `beside` what is kept its forward and its backward take."""

    kept: int
    moved: int
    host: int
    beside: tuple[int, int]


StageDecisions = Sequence[Sequence[Decision]]
"""By [part][subsequence]."""


@dataclass(frozen=True, kw_only=True)
class StageMemoryModel:
    """One stage of one layout. `costs` are its compute times by [part][subsequence].

    tokens: what this rank computes, by [part][subsequence]: own parts, then borrowed ones. Less
    than `lengths` where a subsequence is cut into slices. Borrowed parts have no decisions: what a
    helper keeps stays. `memo` is for what stages of one layout share. `clones`: see `PartKind`,
    `connections`: `untracked`. Of the step's `sequences` through the replica `computes` are those
    that differ.
    """

    shapes: tuple[PartShape, ...]
    tokens: tuple[tuple[int, ...], ...]
    computes: tuple[Compute, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    messages_ahead: int
    connections: int
    profile: Hardware
    costs: tuple[tuple[SubsequenceCost, ...], ...]
    kv_block_tokens: int = 0
    kv_sets: int = 1
    sequences: int = 1
    clones: bool = False
    msp_roles: tuple[MspRole, ...] = ()
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def block(self) -> BlockSpec:
        """All parts are of one model."""
        return block_of(self.shapes[0].model)

    def kept_bytes(self, part: int, index: int, decision: Decision) -> int:
        """Bytes left by a forward under this decision, before anything travels."""
        return self.shapes[part].kept_bytes(self.tokens[part][index], decision.recompute)

    def offloaded_bytes(self, part: int, index: int, decision: Decision) -> int:
        shape, tokens = self.shapes[part], self.tokens[part][index]
        return sum(
            shape.saved_tensor_bytes(shape.saved_tensors[name], tokens) * n
            for name, n in decision.offload
        )

    def host_bytes(self, decisions: StageDecisions) -> int:
        """The host arenas, one per set of K and V: every unit that travels in a slot of its own."""

        def of(part: int, row: Sequence[Decision]) -> int:
            return sum(
                self._sizes(part, index, decision).host for index, decision in enumerate(row)
            )

        return self.kv_sets * sum(self._by_row(decisions, of))

    def _sizes(self, part: int, index: int, decision: Decision) -> _Sizes:
        """Everything of one decision, found once for all stages of a layout."""
        known = self._known(part)
        key = index, decision
        found = known.get(key)
        if found is None:
            shape, tokens = self.shapes[part], self.tokens[part][index]
            found = known[key] = _Sizes(
                kept=self.kept_bytes(part, index, decision),
                moved=self.offloaded_bytes(part, index, decision),
                host=sum(
                    n * slot_bytes(shape.saved_tensor_bytes(shape.saved_tensors[name], tokens))
                    for name, n in decision.offload
                ),
                beside=self.temporary_bytes(part, index, decision.recompute),
            )
        return found

    def _known(self, part: int) -> dict[Any, Any]:
        """What was found for this part and those like it."""
        return self._knowns[part]

    @cached_property
    def _knowns(self) -> list[dict[Any, Any]]:
        if self.msp_roles:  # slices differ from stage to stage
            return [{} for _ in self.shapes]
        return [self.memo.setdefault((kind, row), {}) for kind, row in self._choices]

    @cached_property
    def _choices(self) -> list[tuple[PartKind, tuple[SubsequenceCost, ...]]]:
        return list(zip(self.kinds[: len(self.shapes)], self.costs, strict=True))

    @cached_property
    def kinds(self) -> tuple[PartKind, ...]:
        """Of its own parts, then of the borrowed ones."""
        shapes = [*self.shapes, *(msp_role.shape for msp_role in self._borrowed)]
        hosted = bool(self.kv_block_tokens)
        return tuple(PartKind.of(shape, hosted=hosted, clones=self.clones) for shape in shapes)

    @cached_property
    def _borrowed(self) -> tuple[MspRole, ...]:
        return tuple(msp_role for msp_role in self.msp_roles if msp_role.helper)

    @cached_property
    def _alike(self) -> tuple[int, ...]:
        """Of each own part the first one that is like it: the same choices at the same costs."""
        found: dict[tuple[object, ...], int] = {}
        return tuple(
            found.setdefault((self.kinds[part], self.tokens[part], self.costs[part]), part)
            for part in range(len(self.shapes))
        )

    def by_kind(self, of: Callable[[int], list[T]]) -> list[list[T]]:
        """Something of every own part, found once for all parts alike: then it is one object."""
        found: dict[int, list[T]] = {}
        for part in self._alike:
            if part not in found:
                found[part] = of(part)
        return [found[part] for part in self._alike]

    def _by_row(
        self, decisions: StageDecisions, of: Callable[[int, Sequence[Decision]], T]
    ) -> list[T]:
        """Something of every own part under its decisions; see `by_kind`."""
        found: dict[tuple[int, int], T] = {}
        rows = []
        for part, row in zip(self._alike, decisions, strict=True):
            key = part, id(row)
            if key not in found:
                found[key] = of(part, row)
            rows.append(found[key])
        return rows

    @cached_property
    def live_bytes(self) -> LiveBytes:
        """What lies on the device at each compute, for all decisions."""
        shapes = [*self.shapes, *(msp_role.shape for msp_role in self._borrowed)]
        width = self.shapes[0].model.hidden * self.shapes[0].element_bytes
        shards = self.shapes[0].shards
        messages = message_bytes(
            self.computes,
            [ChunkEnds(shape.layers, shape.first, shape.head) for shape in shapes],
            [[-(-tokens * width // shards) for tokens in row] for row in self.tokens],
            self.messages_ahead,
        )
        if self.msp_roles:
            exchanged = exchanged_bytes(self.computes, self.msp_roles)
            messages = [a + b for a, b in zip(messages, exchanged, strict=True)]
        return LiveBytes(
            computes=self.computes,
            subsequences=len(self.lengths),
            messages=messages,
            overlapped=self.profile.overlapped_copies,
        )

    def temporary_bytes(self, part: int, index: int, recompute: tuple[str, ...]) -> tuple[int, int]:
        """What a forward and a backward take beside what is kept."""
        kind = self.kinds[part]
        key = part, index, recompute
        found = self._beside.get(key)
        if found is None:
            forward = self.largest_bytes(part, index, temporary_peaks(kind, True, recompute))
            backward = self.largest_bytes(part, index, temporary_peaks(kind, False, recompute))
            assert forward is not None
            assert backward is not None
            found = self._beside[key] = forward, backward
        return found

    def largest_bytes(self, part: int, index: int, of: Sequence[TemporaryPeak]) -> int | None:
        """Of these moments of a compute; None if all need a prefix that is not there."""
        start, tokens = self.starts[index], self.tokens[part][index]
        block_tokens = self.kv_block_tokens or max(self.block.prefix_block_tokens, tokens)
        return largest_bytes(
            of,
            self.shapes[0].shards,
            start=start,
            tokens=tokens,
            keys=min(start, block_tokens),
            exchange_bytes=exchange_bytes(self.msp_roles, part, index),
        )

    @cached_property
    def _beside(self) -> dict[tuple[object, ...], tuple[int, int]]:
        return {}

    def held(self, decisions: StageDecisions) -> tuple[list[int], list[int]]:
        """Kept activations, and what is there beside them but messages, at every compute."""
        indices = range(len(self.lengths))

        def of(part: int, row: Sequence[Decision]) -> list[_Sizes]:
            return [self._sizes(part, index, decision) for index, decision in enumerate(row)]

        mine = [one for row in self._by_row(decisions, of) for one in row]
        kept = [one.kept for one in mine]
        moved = [one.moved for one in mine]
        beside = [one.beside for one in mine]
        own = len(self.shapes)
        for number, msp_role in enumerate(self._borrowed, own):
            row = self.tokens[number]
            kept += [msp_role.shape.kept_bytes(tokens, msp_role.recompute) for tokens in row]
            moved += [0] * len(row)
            beside += [self.temporary_bytes(number, i, msp_role.recompute) for i in indices]
        forwards, backwards = zip(*beside, strict=True)
        live_bytes = self.live_bytes
        return live_bytes.kept(kept, moved), live_bytes.beside(forwards, backwards)

    def fixed_bytes(self, memory: StageMemory) -> int:
        """What lies on the device at every compute."""
        ring = 0
        if self.kv_block_tokens:
            model, size = self.shapes[0].model, self.shapes[0].element_bytes
            ring = ring_bytes(model, size, self.shapes[0].shards, self.kv_block_tokens)
        return memory.total - memory.kept - memory.staging - memory.temporary + ring

    def base_at_turn_bytes(self, decisions: StageDecisions) -> int:
        """All but kept activations at the last forward, when nothing is used up yet."""
        turn = self.live_bytes.turn
        beside = self.held(decisions)[1][turn] + self.live_bytes.messages[turn]
        return self.fixed_bytes(self.memory(decisions)) + beside

    @cached_property
    def untracked(self) -> Untracked:
        """What the device holds beside tracked tensors, whatever the decisions."""
        layers = [shape.layers for shape in self.shapes]
        layers += [msp_role.shape.layers for msp_role in self._borrowed]
        rows = [row for row, own in zip(self.tokens, layers, strict=True) if own]
        return untracked(
            self.shapes[0],
            self.profile,
            tokens={tokens for row in rows for tokens in row if tokens},
            keys=max(self.block.prefix_block_tokens, *self.lengths),
            connections=self.connections,
        )

    def memory(self, decisions: StageDecisions) -> StageMemory:
        """The whole memory model under these decisions."""
        kept, beside = self.held(decisions)
        return stage_memory(
            self.shapes,
            sum(self.lengths),
            fullest=self.live_bytes.fullest(kept, beside),
            untracked=self.untracked,
            kept_peak_bytes=max(kept),
            host_bytes=self.host_bytes(decisions),
            kv_block_tokens=self.kv_block_tokens,
            kv_sets=self.kv_sets,
            sequences=self.shapes[0].replicas * self.sequences,
            msp_roles=self.msp_roles,
        )

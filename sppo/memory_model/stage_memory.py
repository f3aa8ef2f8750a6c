"""Memory of one stage under given decisions of its saved tensors, compute by compute. No torch."""

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
    """Decisions of one subsequence in one model chunk: saved tensors to offload and to recompute.

    offload: (saved tensor, n): offloaded in the first n layers. recompute: names, in all layers.
    """

    offload: tuple[tuple[str, int], ...] = ()
    recompute: tuple[str, ...] = ()


KEEP = Decision()


class SubsequenceBytes(NamedTuple):
    """Bytes of a subsequence in a model chunk; the last two are temporaries of its computes."""

    saved: int
    offloaded: int
    host: int
    forward: int
    backward: int


StageDecisions = Sequence[Sequence[Decision]]
"""By [chunk][subsequence]."""


@dataclass(frozen=True, kw_only=True)
class StageMemoryModel:
    """One stage of one layout. `costs` are its compute times by [chunk][subsequence].

    tokens: those that this rank computes, by [chunk][subsequence]: own chunks, then those it helps
    with. They are fewer than `lengths` where MSP splits a subsequence. A helper's slices have no
    decisions: their saved tensors stay on the device. `memo`: results that the stages of a layout
    share. `clones`: see `PartKind`. `connections`: see `untracked`. `computes` are those of the
    sequences that differ, of the step's `sequences` through the replica.
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
        """All chunks are of one model."""
        return block_of(self.shapes[0].model)

    def kept_bytes(self, part: int, index: int, decision: Decision) -> int:
        """Bytes that a forward saves under this decision, before anything is offloaded."""
        return self.shapes[part].kept_bytes(self.tokens[part][index], decision.recompute)

    def offloaded_bytes(self, part: int, index: int, decision: Decision) -> int:
        """Bytes that this decision offloads."""
        return sum(n * size for n, size in self._offloaded(part, index, decision))

    def _offloaded(self, part: int, index: int, decision: Decision) -> list[tuple[int, int]]:
        """(tensors, bytes of each) of every offloaded saved tensor."""
        shape, tokens = self.shapes[part], self.tokens[part][index]
        saved_tensors = shape.saved_tensors
        return [
            (n, shape.saved_tensor_bytes(saved_tensors[name], tokens))
            for name, n in decision.offload
        ]

    def host_bytes(self, decisions: StageDecisions) -> int:
        """The host arenas, one for each set of K and V; every offloaded tensor has its own slot."""
        rows = self._by_row(decisions, self._row_bytes)
        return self.kv_sets * sum(size.host for row in rows for size in row)

    def _row_bytes(self, part: int, row: Sequence[Decision]) -> list[SubsequenceBytes]:
        """Bytes of all subsequences of an own chunk; one decision is computed once for a layout."""
        known = self._known(part)
        sizes = []
        for key in enumerate(row):
            size = known.get(key)
            if size is None:
                index, decision = key
                size = known[key] = SubsequenceBytes(
                    self.kept_bytes(part, index, decision),
                    self.offloaded_bytes(part, index, decision),
                    sum(n * slot_bytes(size) for n, size in self._offloaded(part, index, decision)),
                    *self.temporary_bytes(part, index, decision.recompute),
                )
            sizes.append(size)
        return sizes

    def _known(self, part: int) -> dict[Any, Any]:
        """Results of this chunk and of the chunks of its kind."""
        return self._knowns[part]

    @cached_property
    def _knowns(self) -> list[dict[Any, Any]]:
        if self.msp_roles:  # slices differ from stage to stage
            return [{} for _ in self.shapes]
        rows = zip(self.kinds, self.costs, strict=True)
        return [self.memo.setdefault((kind, costs), {}) for kind, costs in rows]

    @cached_property
    def _all_shapes(self) -> list[PartShape]:
        """Own chunks, then those that the rank helps with."""
        return [*self.shapes, *(msp_role.shape for msp_role in self._helper_roles)]

    @cached_property
    def _helper_roles(self) -> list[MspRole]:
        return [msp_role for msp_role in self.msp_roles if msp_role.helper]

    @cached_property
    def kinds(self) -> tuple[PartKind, ...]:
        """Kinds of the own chunks, then of those that the rank helps with."""
        hosted = bool(self.kv_block_tokens)
        return tuple(
            PartKind.of(shape, hosted=hosted, clones=self.clones) for shape in self._all_shapes
        )

    @cached_property
    def _representatives(self) -> tuple[int, ...]:
        """For each own chunk the first one of the same kind, tokens and costs."""
        firsts: dict[tuple[object, ...], int] = {}
        return tuple(
            firsts.setdefault((self.kinds[part], self.tokens[part], self.costs[part]), part)
            for part in range(len(self.shapes))
        )

    def by_kind(self, of: Callable[[int], list[T]]) -> list[list[T]]:
        """`of` every own chunk, computed once for chunks of a kind: these share one object."""
        results = {part: of(part) for part in dict.fromkeys(self._representatives)}
        return [results[part] for part in self._representatives]

    def _by_row(
        self, decisions: StageDecisions, of: Callable[[int, Sequence[Decision]], T]
    ) -> list[T]:
        """`of` every own chunk under its decisions; see `by_kind`."""
        results: dict[tuple[int, int], T] = {}
        rows = []
        for part, row in zip(self._representatives, decisions, strict=True):
            key = part, id(row)
            if key not in results:
                results[key] = of(part, row)
            rows.append(results[key])
        return rows

    @cached_property
    def live_bytes(self) -> LiveBytes:
        """The computes and the bytes of messages at each, for all decisions."""
        width = self.shapes[0].model.hidden * self.shapes[0].element_bytes
        shards = self.shapes[0].shards
        messages = message_bytes(
            self.computes,
            [ChunkEnds(shape.layers, shape.first, shape.head) for shape in self._all_shapes],
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
        """Temporaries of a forward and of a backward at their peaks."""
        key = part, index, recompute
        known = self._temporary_bytes.get(key)
        if known is None:
            forward, backward = (
                self.largest_bytes(
                    part, index, temporary_peaks(self.kinds[part], is_forward, recompute)
                )
                for is_forward in (True, False)
            )
            assert forward is not None
            assert backward is not None
            known = self._temporary_bytes[key] = forward, backward
        return known

    @cached_property
    def _temporary_bytes(self) -> dict[tuple[object, ...], tuple[int, int]]:
        return {}

    def largest_bytes(self, part: int, index: int, peaks: Sequence[TemporaryPeak]) -> int | None:
        """Bytes of the largest of these peaks; None if all of them need an earlier subsequence."""
        start, tokens = self.starts[index], self.tokens[part][index]
        block_tokens = self.kv_block_tokens or max(self.block.prefix_block_tokens, tokens)
        return largest_bytes(
            peaks,
            self.shapes[0].shards,
            start=start,
            tokens=tokens,
            keys=min(start, block_tokens),
            exchange_bytes=exchange_bytes(self.msp_roles, part, index),
        )

    def held(self, decisions: StageDecisions) -> tuple[list[int], list[int]]:
        """Bytes of saved tensors, and of temporaries, at every compute."""
        sizes = [size for row in self._by_row(decisions, self._row_bytes) for size in row]
        for part, msp_role in enumerate(self._helper_roles, len(self.shapes)):
            for index, tokens in enumerate(self.tokens[part]):
                saved = msp_role.shape.kept_bytes(tokens, msp_role.recompute)
                temporary = self.temporary_bytes(part, index, msp_role.recompute)
                sizes.append(SubsequenceBytes(saved, 0, 0, *temporary))
        saved_bytes, offloaded, _, forwards, backwards = zip(*sizes, strict=True)
        live_bytes = self.live_bytes
        return live_bytes.saved(saved_bytes, offloaded), live_bytes.temporary(forwards, backwards)

    def fixed_bytes(self, memory: StageMemory) -> int:
        """Bytes that lie on the device at every compute."""
        shape = self.shapes[0]
        ring = ring_bytes(shape.model, shape.element_bytes, shape.shards, self.kv_block_tokens)
        return memory.total - memory.kept - memory.staging - memory.temporary + ring

    def base_at_turn_bytes(self, decisions: StageDecisions) -> int:
        """All but saved tensors at the last forward, when the backward has freed nothing yet."""
        turn = self.live_bytes.turn
        temporary = self.held(decisions)[1][turn]
        return self.fixed_bytes(self.memory(decisions)) + temporary + self.live_bytes.messages[turn]

    @cached_property
    def untracked(self) -> Untracked:
        """Device bytes that no tracked tensor shows, the same under all decisions."""
        rows = zip(self.tokens, self._all_shapes, strict=True)
        return untracked(
            self.shapes[0],
            self.profile,
            tokens={tokens for row, shape in rows if shape.layers for tokens in row if tokens},
            keys=max(self.block.prefix_block_tokens, *self.lengths),
            connections=self.connections,
        )

    def memory(self, decisions: StageDecisions) -> StageMemory:
        """The whole memory model under these decisions."""
        saved, temporary = self.held(decisions)
        return stage_memory(
            self.shapes,
            sum(self.lengths),
            peak=self.live_bytes.peak(saved, temporary),
            untracked=self.untracked,
            kept_peak_bytes=max(saved),
            host_bytes=self.host_bytes(decisions),
            kv_block_tokens=self.kv_block_tokens,
            kv_sets=self.kv_sets,
            sequences=self.shapes[0].replicas * self.sequences,
            msp_roles=self.msp_roles,
        )

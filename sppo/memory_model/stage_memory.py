"""Memory of one stage under given decisions of its saved tensors, compute by compute. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sppo.config.hardware import Hardware
from sppo.config.sizes import slot_bytes
from sppo.config.workload import Workload
from sppo.memory_model.decisions import Decision, StageDecisions
from sppo.memory_model.live_bytes import LiveBytes, SubsequenceBytes, message_bytes
from sppo.memory_model.model_state import constant_bytes, kv_bytes, ring_bytes, state_bytes
from sppo.memory_model.msp import (
    MspRole,
    exchange_bytes,
    exchanged_bytes,
    helper_bytes,
    msp_roles,
)
from sppo.memory_model.temporaries import PartKind
from sppo.memory_model.temporary_peaks import largest_bytes, temporary_peaks
from sppo.memory_model.untracked import summed_bytes, untracked
from sppo.plan.blocks import BlockSpec, block_of
from sppo.plan.blocks.temporaries import TemporaryPeak
from sppo.plan.layout import Layout
from sppo.plan.parts import PartShape, SubsequenceCost
from sppo.plan.plan import StageMemory, Untracked
from sppo.schedule.order import Compute, stage_computes

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageMemoryModel:
    """One stage of one layout: `workload` on the hardware `profile`.

    `chunks` are those of the whole model. `costs` are the compute times of the stage's own chunks,
    by [chunk][subsequence]. `memo`: results of all stages, with and without MSP.

    By [chunk][subsequence] are own chunks, then those that the stage helps with. A helper's slices
    have no decisions: their saved tensors stay on the device.
    """

    layout: Layout
    stage: int
    chunks: tuple[PartShape, ...]
    workload: Workload
    profile: Hardware
    costs: tuple[tuple[SubsequenceCost, ...], ...]
    memo: dict[Any, Any] = field(compare=False, repr=False)

    @cached_property
    def shapes(self) -> tuple[PartShape, ...]:
        """The stage's own chunks."""
        return self.chunks[self.stage :: self.layout.pipeline_parallel]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of the subsequences."""
        return self.layout.lengths_tokens

    @cached_property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        """Tokens that this rank computes; fewer than `lengths` where MSP splits a subsequence."""
        return self.layout.rank_tokens(self.stage)

    @cached_property
    def computes(self) -> tuple[Compute, ...]:
        """Forwards and backwards in a step, in order, of the sequences that differ.

        Sequences between equal neighbours are left out: the device holds the same bytes in them.
        """
        sequences = self.workload.sequences_per_step // self.layout.data_parallel
        differing = min(sequences, 3 if self.layout.kv_sets > 1 else 2)
        return tuple(stage_computes(self.layout, self.stage, differing))

    @cached_property
    def msp_roles(self) -> tuple[MspRole, ...]:
        """The stage's roles in MSP splits."""
        return tuple(msp_roles(self.layout, self.stage, self.chunks))

    @cached_property
    def block(self) -> BlockSpec:
        """All chunks are of one model."""
        return block_of(self.shapes[0].model)

    def kept_bytes(self, part: int, index: int, decision: Decision) -> int:
        """Bytes that a forward saves under this decision, before anything is offloaded."""
        return self.shapes[part].kept_bytes(self.tokens[part][index], decision.recompute)

    def all_kept_bytes(self, decisions: StageDecisions) -> int:
        """Bytes that all forwards of the own chunks save, of one sequence."""
        rows = self._by_row(decisions, self._row_bytes)
        return sum(size.saved for row in rows for size in row)

    def offloaded_bytes(self, part: int, index: int, decision: Decision) -> int:
        """Bytes that this decision offloads."""
        return sum(n * size for n, size in self._offloaded(part, index, decision))

    def _offloaded(self, part: int, index: int, decision: Decision) -> list[tuple[int, int]]:
        """(tensors, bytes of each) of every offloaded saved tensor."""
        shape, tokens = self.shapes[part], self.tokens[part][index]
        return [
            (n, shape.saved_tensor_bytes(shape.saved_tensors[name], tokens))
            for name, n in decision.offload
        ]

    def _row_bytes(self, part: int, row: Sequence[Decision]) -> list[SubsequenceBytes]:
        """Bytes of all subsequences of an own chunk; one decision is computed once for a layout."""
        sizes = []
        for index, (known, decision) in enumerate(zip(self._known[part], row, strict=True)):
            size = known.get(decision)
            if size is None:
                offloaded = self._offloaded(part, index, decision)
                size = known[decision] = SubsequenceBytes(
                    self.kept_bytes(part, index, decision),
                    sum(n * size for n, size in offloaded),
                    sum(n * slot_bytes(size) for n, size in offloaded),
                    *self.temporary_bytes(part, index, decision.recompute),
                )
            sizes.append(size)
        return sizes

    @cached_property
    def _known(self) -> list[list[dict[Any, Any]]]:
        """By [chunk][subsequence]: results, shared where kind, costs, tokens and exchange agree."""
        costs = [*self.costs, *[None] * (len(self.kinds) - len(self.costs))]
        known = []
        for part, key in enumerate(zip(self.kinds, costs, strict=True)):
            shared = self.memo.setdefault(key, {})
            exchanged = [
                exchange_bytes(self.msp_roles, part, index) for index in range(len(self.lengths))
            ]
            entries = zip(range(len(self.lengths)), self.tokens[part], exchanged, strict=True)
            known.append([shared.setdefault(entry, {}) for entry in entries])
        return known

    @cached_property
    def _all_shapes(self) -> list[PartShape]:
        """Own chunks, then those that the rank helps with."""
        return [self.chunks[part] for part in self.layout.parts_of(self.stage)]

    @cached_property
    def kinds(self) -> tuple[PartKind, ...]:
        """Kinds of the own chunks, then of those that the rank helps with."""
        hosted = bool(self.layout.kv_block_tokens)
        clones = self.workload.cluster.device == "cpu"
        return tuple(PartKind.of(shape, hosted=hosted, clones=clones) for shape in self._all_shapes)

    @cached_property
    def _representatives(self) -> tuple[int, ...]:
        """For each own chunk the first one of the same kind, tokens and costs."""
        firsts: dict[tuple[object, ...], int] = {}
        keys = zip(self.kinds, self.tokens, self.costs, strict=False)
        return tuple(firsts.setdefault(key, part) for part, key in enumerate(keys))

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
            self._all_shapes,
            [[-(-tokens * width // shards) for tokens in row] for row in self.tokens],
            self.layout.receive_ahead,
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
        known: tuple[int, int] | None = self._known[part][index].get(("temporary", recompute))
        if known is None:
            forward, backward = (
                self.largest_bytes(
                    part, index, temporary_peaks(self.kinds[part], is_forward, recompute)
                )
                for is_forward in (True, False)
            )
            assert forward is not None
            assert backward is not None
            known = self._known[part][index]["temporary", recompute] = forward, backward
        return known

    def largest_bytes(self, part: int, index: int, peaks: Sequence[TemporaryPeak]) -> int | None:
        """Bytes of the largest of these peaks; None if all of them need an earlier subsequence."""
        start, tokens = self.layout.starts_tokens[index], self.tokens[part][index]
        block_tokens = self.layout.kv_block_tokens or max(self.block.prefix_block_tokens, tokens)
        return largest_bytes(
            peaks,
            self.shapes[0].shards,
            start=start,
            tokens=tokens,
            keys=min(start, block_tokens),
            exchange_bytes=exchange_bytes(self.msp_roles, part, index),
        )

    def _held(self, decisions: StageDecisions) -> tuple[list[int], list[int], int]:
        """Bytes of saved tensors and of temporaries at every compute, and of the host arenas.

        There is an arena for each set of K and V. Every offloaded tensor has a slot of its own.
        """
        sizes = [size for row in self._by_row(decisions, self._row_bytes) for size in row]
        helped = [msp_role for msp_role in self.msp_roles if msp_role.helper]
        for part, msp_role in enumerate(helped, len(self.shapes)):
            for index, tokens in enumerate(self.tokens[part]):
                saved_bytes = msp_role.shape.kept_bytes(tokens, msp_role.recompute)
                temporaries = self.temporary_bytes(part, index, msp_role.recompute)
                sizes.append(SubsequenceBytes(saved_bytes, 0, 0, *temporaries))
        saved, offloaded, host, forwards, backwards = zip(*sizes, strict=True)
        temporary = self.live_bytes.temporary(forwards, backwards)
        return self.live_bytes.saved(saved, offloaded), temporary, self.layout.kv_sets * sum(host)

    def fixed_bytes(self, memory: StageMemory) -> int:
        """Bytes that lie on the device at every compute."""
        passing = memory.kept + memory.staging + memory.temporary
        return memory.total - passing + self._ring_bytes

    @property
    def _ring_bytes(self) -> int:
        """Blocks of hosted K, V, dK and dV."""
        shape = self.shapes[0]
        tokens = self.layout.kv_block_tokens
        device = self.workload.cluster.device
        return ring_bytes(shape.model, shape.element_bytes, shape.shards, tokens, device)

    def base_at_turn_bytes(self, decisions: StageDecisions) -> int:
        """All but saved tensors at the last forward, when the backward has freed nothing yet."""
        turn = self.live_bytes.turn
        held = self._held(decisions)
        return (
            self.fixed_bytes(self._memory(*held)) + held[1][turn] + self.live_bytes.messages[turn]
        )

    @cached_property
    def untracked(self) -> Untracked:
        """Device bytes that no tracked tensor shows, the same under all decisions."""
        rows = zip(self.tokens, self._all_shapes, strict=True)
        return untracked(
            self.shapes[0],
            self.profile,
            tokens={tokens for row, shape in rows if shape.layers for tokens in row if tokens},
            keys=max(self.block.prefix_block_tokens, *self.lengths),
            connections=self.layout.connections_of(self.stage)
            if self.profile.connection_bytes
            else 0,
            summed_bytes=summed_bytes(self.shapes, self.workload.cluster.device),
        )

    @cached_property
    def _state_bytes(self) -> tuple[int, int, int, int, int]:
        """Weights, gradients, optimizer state, KV and dKV.

        A helper has room for the weights and gradients of one chunk, and for KV and dKV up to the
        end of the split.
        """
        weights, gradients, optimizer = state_bytes(self.shapes)
        kv, dkv = kv_bytes(self.shapes, self.layout, self.stage)
        helped = helper_bytes(self.msp_roles)
        return (
            weights + helped[0],
            gradients + helped[1],
            optimizer,
            kv + helped[2],
            dkv + helped[3],
        )

    @property
    def kv_host_bytes(self) -> int:
        """K, V, dK and dV in the host tier."""
        return sum(self._state_bytes[3:]) if self.layout.kv_block_tokens else 0

    def memory(self, decisions: StageDecisions) -> StageMemory:
        """The whole memory model under these decisions."""
        return self._memory(*self._held(decisions))

    def _memory(self, saved: list[int], temporary: list[int], host: int) -> StageMemory:
        peak = self.live_bytes.peak(saved, temporary)
        hosted = bool(self.layout.kv_block_tokens)
        weights, gradients, optimizer, kv, dkv = self._state_bytes
        return StageMemory(
            weights=weights,
            gradients=gradients,
            optimizer=optimizer,
            kv=0 if hosted else kv,
            dkv=0 if hosted else dkv,
            kept=peak.saved,
            kept_peak=max(saved),
            staging=peak.messages + self._ring_bytes,
            constants=constant_bytes(self.workload),
            temporary=peak.temporary,
            host=host,
            kv_host=self.kv_host_bytes,
            untracked=self.untracked,
        )

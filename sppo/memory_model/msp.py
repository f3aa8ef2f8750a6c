"""Memory of MSP splits on a rank: a helper's room, and exchanges between slices. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.layout import Layout
from sppo.plan.parts import PartShape
from sppo.schedule.order import Compute


class Share(NamedTuple):
    """Tokens of a rank's slice of a subsequence, and of the slices before and after it."""

    earlier: int
    own: int
    later: int


@dataclass(frozen=True, kw_only=True)
class MspRole:
    """A rank's role in an MSP split: owner or `helper`, for positions [start, end).

    `virtual` is the chunk's place among those of the rank. `shares` are the rank's tokens of the
    subsequences from `first` on, which `ranks` ranks compute. `recompute`: the saved tensors that a
    helper recomputes. kv_block_tokens: of K and V in the host tier, 0 on the device.
    """

    shape: PartShape
    helper: bool
    virtual: int
    start: int
    end: int
    first: int
    shares: tuple[Share, ...]
    ranks: int
    recompute: tuple[str, ...]
    kv_block_tokens: int = 0

    @property
    def last(self) -> int:
        """The last split subsequence."""
        return self.first + len(self.shares) - 1

    @cached_property
    def wide(self) -> int:
        """Bytes of an element of gradients."""
        return gradient_element_bytes(self.shape.element_bytes)

    def share(self, virtual: int, subsequence: int) -> Share | None:
        """The rank's share of a subsequence in a chunk, where the split has it."""
        number = subsequence - self.first
        inside = virtual == self.virtual and 0 <= number < len(self.shares)
        return self.shares[number] if inside else None

    def during_bytes(self, forward: bool, share: Share) -> int:
        """K and V in exchange while a slice is computed, or dK and dV of later slices."""
        shape = self.shape
        if forward:  # the layer that reads K and V of earlier slices takes them in
            received = shape.kv_bytes(share.earlier, shape.element_bytes) // len(shape.layers)
            return self.after_bytes(True, share) + received
        return shape.kv_bytes(share.later, self.wide)

    def late_bytes(self, share: Share) -> int:
        """More of dK and dV behind a layer's attention: of earlier slices, and those received.

        Those of the layers before are there as well, but less is saved then. In the host tier: also
        K and V of a block of the earlier slices.
        """
        shape = self.shape
        earlier = shape.kv_bytes(share.earlier, self.wide) // len(shape.layers)
        received = shape.kv_bytes((self.ranks - 1) * share.own, self.wide) // len(shape.layers)
        full = block_of(shape.model).recompute_full
        saved = shape.kept_bytes(share.own, full) // len(shape.layers)
        reloaded = min(share.earlier, self.kv_block_tokens)
        states = shape.kv_bytes(reloaded, shape.element_bytes) // len(shape.layers)
        return earlier + received + states + (len(shape.layers) - 1) * max(0, earlier - saved)

    def after_bytes(self, forward: bool, share: Share) -> int:
        """The exchanged bytes that stay until the rank computes in this chunk again."""
        if forward:
            return self.shape.kv_bytes(share.own + share.later, self.shape.element_bytes)
        return self.shape.kv_bytes(share.earlier + share.later, self.wide)

    @property
    def returned_bytes(self) -> int:
        """Room of the owner for all helpers' gradients, and for two heads' dK and dV.

        In the host tier: for dK and dV of two blocks that are received, and of one to add them to.
        """
        shape = self.shape
        if self.kv_block_tokens:
            tokens = 3 * min(self.start, self.kv_block_tokens)
            rooms = shape.kv_bytes(tokens, self.wide) // len(shape.layers)
            return (self.ranks - 1) * shape.parameters * self.wide + rooms
        heads = len(shape.layers) * (block_of(shape.model).state_heads // shape.shards)
        rooms = shape.kv_bytes(self.start, self.wide) // heads
        return (self.ranks - 1) * shape.parameters * self.wide + rooms


def msp_roles(layout: Layout, stage: int, chunks: Sequence[PartShape]) -> Iterator[MspRole]:
    """The roles of a stage in the MSP splits of a layout; `chunks` are those of the model."""
    parts = layout.parts_of(stage)
    for split in layout.msp_splits:
        if stage not in split.ranks:
            continue
        place = split.ranks.index(stage)
        first, last = split.subsequences[0], split.subsequences[-1]
        yield MspRole(
            shape=chunks[split.part],
            helper=stage != split.part % layout.pipeline_parallel,
            virtual=parts.index(split.part),
            start=layout.starts_tokens[first],
            end=layout.starts_tokens[last] + layout.lengths_tokens[last],
            first=first,
            shares=tuple(
                Share(sum(lengths[:place]), lengths[place], sum(lengths[place + 1 :]))
                for lengths in split.lengths_tokens
            ),
            ranks=len(split.ranks),
            recompute=split.recompute_units,
            kv_block_tokens=layout.kv_block_tokens,
        )


def exchanged_bytes(computes: Sequence[Compute], msp_roles: Sequence[MspRole]) -> list[int]:
    """Bytes of MSP messages on a rank during each of its computes.

    The owner's weights stay packed until the gradients are back. Exchanged K, V, dK and dV stay
    until the rank computes in that chunk again.
    """
    by_role = [_role_bytes(computes, msp_role) for msp_role in msp_roles]
    return [sum(sizes) for sizes in zip(*by_role, strict=True)]


def _role_bytes(computes: Sequence[Compute], msp_role: MspRole) -> Iterator[int]:
    staying = packed = 0
    for compute in computes:
        if compute.virtual == msp_role.virtual:
            staying = 0
        total = packed + staying
        share = msp_role.share(compute.virtual, compute.subsequence)
        if share is not None:
            begin, end = msp_role.first, msp_role.last
            if not compute.forward:
                begin, end = end, begin
            if compute.subsequence == begin and not msp_role.helper:
                packed += msp_role.shape.parameters * msp_role.shape.element_bytes
            total = packed + msp_role.during_bytes(compute.forward, share)
            staying = msp_role.after_bytes(compute.forward, share)
            if compute.subsequence == end and not compute.forward:
                total += 0 if msp_role.helper else msp_role.returned_bytes
                staying = 0 if msp_role.helper else staying  # a helper sends all it has
                packed = 0
        yield total


def exchange_bytes(msp_roles: Sequence[MspRole], virtual: int, subsequence: int) -> int:
    """See `MspRole.late_bytes`; 0 for a subsequence that is not split."""
    shares = [(msp_role, msp_role.share(virtual, subsequence)) for msp_role in msp_roles]
    return max((msp_role.late_bytes(share) for msp_role, share in shares if share), default=0)


def helper_bytes(msp_roles: Sequence[MspRole]) -> tuple[int, int, int, int]:
    """Room of a helper: weights and gradients of one chunk, K and V, dK and dV."""
    roles = [msp_role for msp_role in msp_roles if msp_role.helper]
    if not roles:
        return 0, 0, 0, 0
    size, wide = roles[0].shape.element_bytes, roles[0].wide
    parameters = max(msp_role.shape.parameters for msp_role in roles)
    kv = sum(msp_role.shape.kv_bytes(msp_role.end, size) for msp_role in roles)
    dkv = sum(msp_role.shape.kv_bytes(msp_role.end, wide) for msp_role in roles)
    return parameters * size, parameters * wide, kv, dkv

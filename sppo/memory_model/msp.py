"""What lending takes on a rank: room for what it borrows, and messages of slices. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import PartShape
from sppo.schedule.order import Compute


class Share(NamedTuple):
    """Tokens of a rank's slice of a subsequence, and of the slices before and after it."""

    earlier: int
    own: int
    later: int


@dataclass(frozen=True, kw_only=True)
class MspRole:
    """A part that one rank lends or borrows (`borrowed`), for positions [start, end).

    `virtual` is its place among the parts of the rank, `shares` what the rank computes of the
    subsequences from `first` on, `ranks` how many compute them; `recompute` is what a helper's
    slices do not keep.
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

    @property
    def last(self) -> int:
        return self.first + len(self.shares) - 1

    @cached_property
    def wide(self) -> int:
        """Bytes of an element of gradients."""
        return gradient_element_bytes(self.shape.element_bytes)

    def share(self, virtual: int, subsequence: int) -> Share | None:
        """What the rank computes of a subsequence in a part, if it is lent."""
        number = subsequence - self.first
        inside = virtual == self.virtual and 0 <= number < len(self.shares)
        return self.shares[number] if inside else None

    def during_bytes(self, forward: bool, share: Share) -> int:
        """K and V on their way while a slice is computed, or dK and dV of later slices."""
        shape = self.shape
        if forward:  # of earlier slices they are taken in by the layer that reads them
            coming = shape.kv_bytes(share.earlier, shape.element_bytes) // len(shape.layers)
            return self.after_bytes(True, share) + coming
        return shape.kv_bytes(share.later, self.wide)

    def late_bytes(self, share: Share) -> int:
        """More of dK and dV behind a layer's attention: of earlier slices, and what comes back.

        Of the layers before it they are there as well, but less is kept then.
        """
        shape = self.shape
        told = shape.kv_bytes(share.earlier, self.wide) // len(shape.layers)
        coming = shape.kv_bytes((self.ranks - 1) * share.own, self.wide) // len(shape.layers)
        full = block_of(shape.model).recompute_full
        kept = shape.kept_bytes(share.own, full) // len(shape.layers)
        return told + coming + (len(shape.layers) - 1) * max(0, told - kept)

    def after_bytes(self, forward: bool, share: Share) -> int:
        """What of that stays until the rank computes something in this part again."""
        if forward:
            return self.shape.kv_bytes(share.own + share.later, self.shape.element_bytes)
        return self.shape.kv_bytes(share.earlier + share.later, self.wide)

    @property
    def returned_bytes(self) -> int:
        """Room of a lender for all helpers' gradients, and for two heads' dK and dV."""
        if self.helper:
            return 0
        shape = self.shape
        heads = len(shape.layers) * (block_of(shape.model).state_heads // shape.shards)
        rooms = shape.kv_bytes(self.start, self.wide) // heads
        return (self.ranks - 1) * shape.parameters * self.wide + rooms

    @property
    def packed_bytes(self) -> int:
        """Weights of a lender on their way out."""
        return 0 if self.helper else self.shape.parameters * self.shape.element_bytes


def exchanged_bytes(computes: Sequence[Compute], msp_roles: Sequence[MspRole]) -> list[int]:
    """What lending has on its way during each compute of a rank.

    Weights that were lent stay packed until the gradients are back; what slices have told each
    other stays until the rank computes in that part again.
    """
    left = [0] * len(msp_roles)
    packed = [0] * len(msp_roles)
    found = []
    for compute in computes:
        total = 0
        shares = [msp_role.share(compute.virtual, compute.subsequence) for msp_role in msp_roles]
        for number, (msp_role, share) in enumerate(zip(msp_roles, shares, strict=True)):
            if msp_role.virtual == compute.virtual:
                left[number] = 0
            total += left[number]
            if share is None:
                continue
            begins = compute.subsequence == (msp_role.first if compute.forward else msp_role.last)
            packed[number] += msp_role.packed_bytes if begins else 0
            total += msp_role.during_bytes(compute.forward, share)
            left[number] = msp_role.after_bytes(compute.forward, share)
        total += sum(packed)
        for number, (msp_role, share) in enumerate(zip(msp_roles, shares, strict=True)):
            if share is not None and not compute.forward and compute.subsequence == msp_role.first:
                total += msp_role.returned_bytes
                packed[number] = 0
                left[number] *= not msp_role.helper  # a helper gives back and is done
        found.append(total)
    return found


def exchange_bytes(msp_roles: Sequence[MspRole], virtual: int, subsequence: int) -> int:
    """See `MspRole.late_bytes`; 0 of what is not lent."""
    shares = [(msp_role, msp_role.share(virtual, subsequence)) for msp_role in msp_roles]
    return max((msp_role.late_bytes(share) for msp_role, share in shares if share), default=0)


def helper_bytes(msp_roles: Sequence[MspRole]) -> tuple[int, int, int, int]:
    """Room on a rank for what it borrows: weights and gradients of one part, K and V, dK and dV."""
    borrowed = [msp_role for msp_role in msp_roles if msp_role.helper]
    if not borrowed:
        return 0, 0, 0, 0
    size, wide = borrowed[0].shape.element_bytes, borrowed[0].wide
    parameters = max(msp_role.shape.parameters for msp_role in borrowed)
    kv = sum(msp_role.shape.kv_bytes(msp_role.end, size) for msp_role in borrowed)
    dkv = sum(msp_role.shape.kv_bytes(msp_role.end, wide) for msp_role in borrowed)
    return parameters * size, parameters * wide, kv, dkv

"""Costs that the simulator charges: nanoseconds and bytes of a chunk, and of MSP slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sppo.plan.msp import MspSplit
from sppo.schedule.instructions import Instruction, Op


@dataclass(frozen=True, kw_only=True)
class PartCosts:
    """Costs of one model chunk, by subsequence: times in nanoseconds or any unit, sizes in bytes.

    `clear` is the time to zero dK and dV of a sequence; nothing where they are hosted.
    """

    forward: Sequence[int]
    backward: Sequence[int]
    clear: int
    kept_bytes: Sequence[int]
    offloaded_bytes: Sequence[int]
    d2h: Sequence[int]
    h2d: Sequence[int]
    message_bytes: Sequence[int]
    message: Sequence[int]
    overlapped_copies: bool


ComputeKey = tuple[Op, int, int, int]
"""(op, chunk, subsequence, slice)"""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Messages of one instruction, their bytes and the time until they have arrived."""

    messages: int
    bytes: int
    time: int


@dataclass(frozen=True, kw_only=True)
class SliceCosts:
    """Costs of MSP splits. `PartCosts` has those of all other instructions.

    `compute` and `kept_bytes` are of slices (and ADD_DW). `exchanged`: messages between slices
    within a compute, whose time is in the compute. `sent` is by send instruction, with sequence 0.
    """

    compute: Mapping[ComputeKey, int] = field(default_factory=dict)
    kept_bytes: Mapping[ComputeKey, int] = field(default_factory=dict)
    exchanged: Mapping[ComputeKey, Sent] = field(default_factory=dict)
    sent: Mapping[Instruction, Sent] = field(default_factory=dict)


def unit_costs(subsequences: int, unit: int = 1) -> PartCosts:
    """Every forward one unit, every backward two, everything else free (the paper's table 3)."""
    nothing = [0] * subsequences
    return PartCosts(
        forward=[unit] * subsequences,
        backward=[2 * unit] * subsequences,
        clear=0,
        kept_bytes=[unit] * subsequences,
        offloaded_bytes=nothing,
        d2h=nothing,
        h2d=nothing,
        message_bytes=nothing,
        message=nothing,
        overlapped_copies=True,
    )


def unit_slice_costs(msp_splits: Sequence[MspSplit], unit: int) -> SliceCosts:
    """Slices cost one m-th of `unit_costs` on m ranks; messages are free."""
    compute: dict[ComputeKey, int] = {}
    saved: dict[ComputeKey, int] = {}
    for msp_split in msp_splits:
        for index in msp_split.subsequences:
            for number in range(len(msp_split.ranks)):
                share = unit // len(msp_split.ranks)
                compute[Op.FORWARD, msp_split.part, index, number] = share
                compute[Op.BACKWARD, msp_split.part, index, number] = 2 * share
                saved[Op.FORWARD, msp_split.part, index, number] = share
    return SliceCosts(compute=compute, kept_bytes=saved)

"""What a lending adds to a stage's instructions: weights before its slices, gradients after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sppo.plan.msp import Slicing
from sppo.plan.plan import Lending
from sppo.schedule.instructions import Instruction, Op

Around = dict[tuple[int, bool], list[Instruction]]
"""By (position of a compute, whether after it)."""


def loan_instructions(slicing: Slicing, stage: int, computes: Sequence[Instruction]) -> Around:
    """The stage's ends of all its loans.

    A helper that still has the weights when the backward begins does not borrow them again.
    """
    found: Around = {}
    for lending in slicing.lendings:
        owner = lending.part % slicing.stages
        for helper, rank in enumerate(lending.ranks):
            if rank == owner or stage not in (rank, owner):
                continue
            for slices in _runs(lending, computes):
                first, last = (computes[position] for position in (slices[0], slices[-1]))
                backward = first.op is Op.BACKWARD
                if not backward or slicing.borrowed(rank)[-1] != lending:
                    op = Op.LEND if stage == owner else Op.BORROW
                    one = first._replace(op=op, slice=helper, other=int(backward))
                    found.setdefault((slices[0], False), []).append(one)
                if backward:
                    _return(found, last._replace(slice=helper), slices[-1], owns=stage == owner)
    return found


def _return(found: Around, last: Instruction, position: int, *, owns: bool) -> None:
    """The gradients' way back; their receive is posted before the last slice is computed."""
    after = Op.ADD if owns else Op.GIVE_BACK
    found.setdefault((position, True), []).append(last._replace(op=after))
    if owns:
        found.setdefault((position, False), []).append(last._replace(op=Op.COLLECT))


def _runs(lending: Lending, computes: Sequence[Instruction]) -> Iterator[list[int]]:
    """Positions of the lent subsequences' forwards, then of their backwards, of each sequence."""
    runs: dict[tuple[int, bool], list[int]] = {}
    for position, compute in enumerate(computes):
        if compute.part == lending.part and compute.subsequence in lending.subsequences:
            key = compute.sequence, compute.op is Op.BACKWARD
            runs.setdefault(key, []).append(position)
    for key in sorted(runs):
        yield runs[key]

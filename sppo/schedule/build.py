"""Plan -> Schedule: the computes of every stage in order, with what belongs around each.

What the instructions are and how they depend on each other: `instructions.py`, `dependencies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sppo.plan.msp import MspSplit, Slicing
from sppo.plan.plan import PartPlan, Plan
from sppo.schedule.dependencies import Schedule, message_receives, message_sends
from sppo.schedule.instructions import Instruction, Op
from sppo.schedule.order import stage_computes


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first; several sequences mixed or in turn."""
    slicing = plan.layout.slicing
    stages = range(plan.pipeline_parallel)
    return Schedule(
        subsequences=plan.subsequences,
        sequences=plan.sequences,
        parts=len(plan.parts),
        stages=tuple(tuple(_stage_instructions(plan, slicing, stage)) for stage in stages),
        slicing=slicing,
        kv_sets=plan.kv_sets,
    )


def _stage_instructions(plan: Plan, slicing: Slicing, stage: int) -> Iterator[Instruction]:
    """The computes of a stage in order, each with its messages and copies around it."""
    computes = _computes(plan, slicing, stage)
    parts = plan.parts
    fetches = _fetches(plan, parts, stage, computes)
    lent = msp_instructions(slicing, stage, computes)
    first: dict[tuple[Op, int], int] = {}
    for position, compute in enumerate(computes):
        first.setdefault((compute.op, compute.sequence), position)
    ahead = plan.receive_ahead
    for early in computes[:ahead]:
        yield from message_receives(slicing, len(parts), early)
    for position, compute in enumerate(computes):
        if position + ahead < len(computes):
            yield from message_receives(slicing, len(parts), computes[position + ahead])
        yield from fetches.get(position, [])
        yield from lent.get((position, False), [])
        yield from _clears(plan, stage, computes, position, first)
        yield compute
        yield from _after(plan, parts, slicing, stage, compute)
        yield from lent.get((position, True), [])


def _computes(plan: Plan, slicing: Slicing, stage: int) -> list[Instruction]:
    parts = plan.layout.parts_of(stage)
    return [
        Instruction(
            Op.FORWARD if forward else Op.BACKWARD,
            sequence,
            index,
            parts[place],
            slicing.slice_of(parts[place], index, stage) or 0,
        )
        for forward, sequence, place, index in stage_computes(plan.layout, stage, plan.sequences)
    ]


def _clears(
    plan: Plan,
    stage: int,
    computes: list[Instruction],
    position: int,
    first: dict[tuple[Op, int], int],
) -> list[Instruction]:
    """Clear dK and dV of all parts where this stage waits anyway.

    The first stage waits for its first gradient, the others for their first hidden states. Of mixed
    sequences only the first is waited for: the others clear before their own backward.
    """
    op, sequence = computes[position].op, computes[position].sequence
    waits = Op.FORWARD if stage and (sequence == 0 or plan.kv_sets == 1) else Op.BACKWARD
    if op is not waits or position != first[op, sequence]:
        return []
    return [Instruction(Op.ZERO_DKV, sequence, 0, part) for part in plan.layout.parts_of(stage)]


def _fetches(
    plan: Plan, parts: tuple[PartPlan, ...], stage: int, computes: list[Instruction]
) -> dict[int, list[Instruction]]:
    """Position of a backward -> fetches issued before it: `fetch_ahead` backwards ahead of need."""
    position_of = {compute: position for position, compute in enumerate(computes)}
    backwards = [compute for compute in computes if compute.op is Op.BACKWARD]
    fetches: dict[int, list[Instruction]] = {}
    issued: set[Instruction] = set()
    for number, backward in enumerate(backwards):
        position = position_of[backward]
        for early in backwards[number : number + plan.fetch_ahead + 1]:
            away = _travels(plan, parts, stage, early)
            made = position_of[early._replace(op=Op.FORWARD)] < position
            if away and made and early not in issued:
                issued.add(early)
                fetches.setdefault(position, []).append(early._replace(op=Op.RELOAD))
    return fetches


def _travels(plan: Plan, parts: tuple[PartPlan, ...], stage: int, compute: Instruction) -> bool:
    """Whether something of it goes to the host tier: never what is made for another stage."""
    own = compute.part % plan.pipeline_parallel == stage
    return own and bool(parts[compute.part].offload_units[compute.subsequence])


def _after(
    plan: Plan, parts: tuple[PartPlan, ...], slicing: Slicing, stage: int, compute: Instruction
) -> list[Instruction]:
    """What follows a compute: its messages, and after a forward its offload."""
    instructions = message_sends(slicing, len(parts), compute)
    if compute.op is Op.FORWARD and _travels(plan, parts, stage, compute):
        instructions.append(compute._replace(op=Op.OFFLOAD))
    return instructions


Around = dict[tuple[int, bool], list[Instruction]]
"""By (position of a compute, whether after it)."""


def msp_instructions(slicing: Slicing, stage: int, computes: Sequence[Instruction]) -> Around:
    """The stage's ends of all its loans.

    A helper that still has the weights when the backward begins does not borrow them again.
    """
    found: Around = {}
    for msp_split in slicing.msp_splits:
        owner = msp_split.part % slicing.stages
        for helper, rank in enumerate(msp_split.ranks):
            if rank == owner or stage not in (rank, owner):
                continue
            for slices in _runs(msp_split, computes):
                first, last = (computes[position] for position in (slices[0], slices[-1]))
                backward = first.op is Op.BACKWARD
                if not backward or slicing.splits_helped_by(rank)[-1] != msp_split:
                    op = Op.SEND_W if stage == owner else Op.RECV_W
                    one = first._replace(op=op, slice=helper, other=int(backward))
                    found.setdefault((slices[0], False), []).append(one)
                if backward:
                    _return(found, last._replace(slice=helper), slices[-1], owns=stage == owner)
    return found


def _return(found: Around, last: Instruction, position: int, *, owns: bool) -> None:
    """The gradients' way back; their receive is posted before the last slice is computed."""
    after = Op.ADD_DW if owns else Op.SEND_DW
    found.setdefault((position, True), []).append(last._replace(op=after))
    if owns:
        found.setdefault((position, False), []).append(last._replace(op=Op.RECV_DW))


def _runs(msp_split: MspSplit, computes: Sequence[Instruction]) -> Iterator[list[int]]:
    """Positions of the lent subsequences' forwards, then of their backwards, of each sequence."""
    runs: dict[tuple[int, bool], list[int]] = {}
    for position, compute in enumerate(computes):
        if compute.part == msp_split.part and compute.subsequence in msp_split.subsequences:
            key = compute.sequence, compute.op is Op.BACKWARD
            runs.setdefault(key, []).append(position)
    for key in sorted(runs):
        yield runs[key]

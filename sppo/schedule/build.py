"""Plan -> Schedule: the computes of every stage in order, each with its messages and copies.

Instructions and their dependencies: `instructions.py`, `dependencies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sppo.plan.layout import Layout
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan
from sppo.schedule.dependencies import Schedule, messages
from sppo.schedule.instructions import Instruction, Op
from sppo.schedule.order import stage_computes


def build_schedule(plan: Plan) -> Schedule:
    """Forwards first to last, backwards last to first; several sequences mixed or in turn."""
    stages = range(plan.pipeline_parallel)
    return Schedule(
        layout=plan,
        sequences=plan.sequences,
        stages=tuple(tuple(_stage_instructions(plan, stage)) for stage in stages),
    )


def _stage_instructions(plan: Plan, stage: int) -> Iterator[Instruction]:
    """The computes of a stage in order, each with its messages and copies around it."""
    computes = _computes(plan, stage)
    reloads = _reloads(plan, stage, computes)
    msp = msp_instructions(plan, stage, computes)
    first: dict[tuple[Op, int], Instruction] = {}
    for compute in computes:
        first.setdefault((compute.op, compute.sequence), compute)
    ahead = plan.receive_ahead
    for early in computes[:ahead]:
        yield from messages(plan, early, reads=True)
    for position, compute in enumerate(computes):
        for early in computes[position + ahead : position + ahead + 1]:
            yield from messages(plan, early, reads=True)
        yield from reloads.get(position, [])
        yield from msp.get((position, False), [])
        if compute == first[compute.op, compute.sequence]:
            yield from _zeros(plan, stage, compute)
        yield compute
        yield from messages(plan, compute, reads=False)
        if compute.op is Op.FORWARD and _offloads(plan, stage, compute):
            yield compute._replace(op=Op.OFFLOAD)
        yield from msp.get((position, True), [])


def _computes(plan: Plan, stage: int) -> list[Instruction]:
    parts = plan.parts_of(stage)
    return [
        Instruction(
            Op.FORWARD if forward else Op.BACKWARD,
            sequence,
            index,
            parts[place],
            plan.slice_of(parts[place], index, stage) or 0,
        )
        for forward, sequence, place, index in stage_computes(plan, stage, plan.sequences)
    ]


def _zeros(plan: Plan, stage: int, first: Instruction) -> list[Instruction]:
    """Zero dK and dV of all chunks before the first forward or backward, where the stage waits.

    The first stage waits for its first gradient, the others for their first hidden states. Of mixed
    sequences only the first is waited for: the others zero before their own backward.
    """
    mixed = first.sequence > 0 and plan.kv_sets > 1
    if first.op is not (Op.FORWARD if stage and not mixed else Op.BACKWARD):
        return []
    parts = plan.parts_of(stage)
    return [Instruction(Op.ZERO_DKV, first.sequence, 0, part) for part in parts]


def _reloads(plan: Plan, stage: int, computes: list[Instruction]) -> dict[int, list[Instruction]]:
    """Position of a backward -> reloads issued before it: `fetch_ahead` backwards ahead of need."""
    position_of = {compute: position for position, compute in enumerate(computes)}
    backwards = [compute for compute in computes if compute.op is Op.BACKWARD]
    reloads: dict[int, list[Instruction]] = {}
    issued: set[Instruction] = set()
    for number, backward in enumerate(backwards):
        position = position_of[backward]
        for early in backwards[number : number + plan.fetch_ahead + 1]:
            made = position_of[early._replace(op=Op.FORWARD)] < position
            if made and early not in issued and _offloads(plan, stage, early):
                issued.add(early)
                reloads.setdefault(position, []).append(early._replace(op=Op.RELOAD))
    return reloads


def _offloads(plan: Plan, stage: int, compute: Instruction) -> bool:
    """Whether saved tensors of a compute are offloaded: never those of a helper."""
    own = compute.part % plan.pipeline_parallel == stage
    return own and bool(plan.parts[compute.part].offload_units[compute.subsequence])


Around = dict[tuple[int, bool], list[Instruction]]
"""By (position of a compute, whether after it)."""


def msp_instructions(layout: Layout, stage: int, computes: Sequence[Instruction]) -> Around:
    """The stage's ends of the messages of weights and their gradients, of all MSP splits.

    A helper that still has the weights when the backward begins does not receive them again.
    """
    around: Around = {}

    def put(position: int, after: bool, instruction: Instruction) -> None:
        around.setdefault((position, after), []).append(instruction)

    for msp_split in layout.msp_splits:
        owns = stage == msp_split.part % layout.pipeline_parallel
        for number, rank in layout.helpers(msp_split):
            for positions in _runs(msp_split, computes) if owns or stage == rank else ():
                begin, end = positions[0], positions[-1]
                first, last = computes[begin]._replace(slice=number), computes[end]
                backward = first.op is Op.BACKWARD
                if not (backward and layout.keeps_weights(rank, msp_split)):
                    weights = Op.SEND_W if owns else Op.RECV_W
                    put(begin, False, first._replace(op=weights, other=int(backward)))
                if backward:
                    gradients = last._replace(op=Op.ADD_DW if owns else Op.SEND_DW, slice=number)
                    put(end, True, gradients)
                    if owns:  # posted before the last slice is computed
                        put(end, False, gradients._replace(op=Op.RECV_DW))
    return around


def _runs(msp_split: MspSplit, computes: Sequence[Instruction]) -> Iterator[list[int]]:
    """Positions of a split's forwards, then of its backwards, of each sequence."""
    runs: dict[tuple[int, bool], list[int]] = {}
    for position, compute in enumerate(computes):
        if compute.part == msp_split.part and compute.subsequence in msp_split.subsequences:
            key = compute.sequence, compute.op is Op.BACKWARD
            runs.setdefault(key, []).append(position)
    for key in sorted(runs):
        yield runs[key]

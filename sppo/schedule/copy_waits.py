"""A step whose computes wait for late copies to the host, as its memory model takes for granted.

In the simulator nothing waits for a copy to the host but the next copy. The memory model has room
for one subsequence on its way out: the compute after the next finds it gone. So here a compute ends
no earlier than the copy that was issued just before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sppo.schedule.cost_table import PartCosts, Place, SliceCosts
from sppo.schedule.dependencies import Schedule
from sppo.schedule.instructions import RECEIVES, SENDS, Instruction, Op
from sppo.schedule.simulate import Simulation, simulate


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The step with its waits, and what it was simulated with.

    `busy` is the compute of every stage, in the costs' unit; `waits` what was waited there.
    """

    simulation: Simulation
    costs: tuple[PartCosts, ...]
    lent: SliceCosts
    busy: tuple[int, ...]
    waits: tuple[int, ...]


def simulate_waiting(
    schedule: Schedule, costs: Sequence[PartCosts], lent: SliceCosts, plain: Simulation
) -> Waiting:
    """`plain` is the same step without waits. One sequence a step.

    What a compute waits depends on what is before it alone, so that every round makes at least the
    next of them right, and those that are right stay so.
    """
    assert schedule.sequences == 1
    waits: dict[Place, int] = {}
    longer, raised, step = tuple(costs), lent, plain
    while (needed := _needed(schedule, step, waits)) != waits:
        waits = needed
        longer = tuple(_longer(number, part, waits) for number, part in enumerate(costs))
        compute = {place: time + waits.get(place, 0) for place, time in lent.compute.items()}
        raised = replace(lent, compute=compute)
        step = simulate(schedule, longer, raised)
    by_stage = tuple(
        sum(waits.get(_place(one), 0) for one in instructions) for instructions in schedule.stages
    )
    return Waiting(simulation=step, costs=longer, lent=raised, busy=plain.busy, waits=by_stage)


def _needed(schedule: Schedule, step: Simulation, waits: Mapping[Place, int]) -> dict[Place, int]:
    """What every compute has to wait in this step for the copy that began before it."""
    needed: dict[Place, int] = {}
    for number, instructions in enumerate(schedule.stages):
        events = iter([event for event in step.events if event.stage == number])
        copied = 0
        for instruction in instructions:
            if instruction.op in RECEIVES or instruction.op in SENDS:
                continue
            event = next(events)
            if instruction.op is Op.OFFLOAD:
                copied = event.end
            elif instruction.op in (Op.FORWARD, Op.BACKWARD):
                place = _place(instruction)
                late = copied - (event.end - waits.get(place, 0))
                if late > 0:
                    needed[place] = late
    return needed


def _longer(number: int, part: PartCosts, waits: Mapping[Place, int]) -> PartCosts:
    def row(op: Op, times: Sequence[int]) -> list[int]:
        return [time + waits.get((op, number, i, 0), 0) for i, time in enumerate(times)]

    return replace(
        part, forward=row(Op.FORWARD, part.forward), backward=row(Op.BACKWARD, part.backward)
    )


def _place(instruction: Instruction) -> Place:
    return instruction.op, instruction.part, instruction.subsequence, instruction.slice

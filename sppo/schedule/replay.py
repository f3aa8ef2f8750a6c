"""What a simulation implies but does not list: its messages, and where compute waits for a copy.

The simulated times of every compute and copy are given; this walks the instructions once more, in
the same order and with the same clocks, to place what lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sppo.schedule.cost_table import PartCosts, SliceCosts
from sppo.schedule.dependencies import Schedule, matching_receive, needed_receives
from sppo.schedule.instructions import RECEIVES, SENDS, Instruction, Op
from sppo.schedule.simulate import Event, Simulation, message_cost


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Times in the unit of the simulation's costs (nanoseconds for a hardware profile).

    `messages`: one event per message, in the lane "p2p" of the stage that sends it, from the moment
    both sides are ready until it has arrived. `exposed`: per stage, the time in which compute waits
    for nothing but a fetch, plus the copies that take compute's own time.
    """

    messages: tuple[Event, ...]
    exposed: tuple[int, ...]


def replay(
    schedule: Schedule,
    costs: Sequence[PartCosts],
    simulation: Simulation,
    lent: SliceCosts | None = None,
) -> Replay:
    """Walk the simulated step again; `costs` and `lent` are those that it was simulated with."""
    stages = [_walk(schedule, simulation, stage) for stage in range(len(schedule.stages))]
    reached = {key: time for steps in stages for key, (_, time) in steps.items()}
    messages, arrived = [], {}
    for stage, steps in enumerate(stages):
        for instruction, (_, ready) in steps.items():
            if instruction.op not in SENDS:
                continue
            receive = matching_receive(instruction)
            start = max(ready, reached[receive])
            end = start + message_cost(instruction, costs, lent or SliceCosts()).time
            arrived[receive] = end
            event = Event(stage=stage, lane="p2p", name=str(instruction), start=start, end=end)
            messages.append(event)
    exposed = tuple(_exposed(schedule, steps, arrived) for steps in stages)
    return Replay(messages=tuple(messages), exposed=exposed)


_Steps = dict[Instruction, tuple[Event | None, int]]
"""Per instruction of a stage its event, if it has one, and the compute clock that it found."""


def _walk(schedule: Schedule, simulation: Simulation, stage: int) -> _Steps:
    """Every compute and copy has one event, in the order of the instructions."""
    events = iter([event for event in simulation.events if event.stage == stage])
    steps: _Steps = {}
    clock = 0
    for instruction in schedule.stages[stage]:
        if instruction.op in RECEIVES or instruction.op in SENDS:
            steps[instruction] = (None, clock)
            continue
        event = next(events)
        assert event.name == str(instruction)
        steps[instruction] = (event, clock)
        if event.lane == "compute":
            clock = event.end
    return steps


def _exposed(schedule: Schedule, steps: _Steps, arrived: dict[Instruction, int]) -> int:
    total = 0
    for instruction, (event, clock) in steps.items():
        if event is None:
            continue
        if instruction.op in (Op.OFFLOAD, Op.FETCH):
            total += event.end - event.start if event.lane == "compute" else 0
        elif instruction.op is Op.BACKWARD:
            needed = [arrived[one] for one in needed_receives(schedule, instruction)]
            otherwise = max(clock, *needed) if needed else clock
            fetched, _ = steps.get(instruction._replace(op=Op.FETCH), (None, 0))
            if fetched is not None:
                total += max(0, fetched.end - otherwise)
    return total

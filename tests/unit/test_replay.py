"""The simulator's messages and exposed copies, against its own times and by hand."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sppo.config.models import gpt
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import PartCosts, unit_costs
from sppo.schedule.dependencies import matching_receive, needed_receives
from sppo.schedule.instructions import Op, parse_instruction
from sppo.schedule.replay import replay
from sppo.schedule.simulate import simulate
from tests.numerics.pipelines import make_plan

MODEL = gpt("gpt-test", layers=8, hidden=32, heads=4, vocabulary=61)


def costs_of(count: int, **changes: object) -> PartCosts:
    last_stays = [60] * (count - 1) + [0]
    base = replace(
        unit_costs(count),
        forward=[10] * count,
        backward=[20] * count,
        kept_bytes=[100] * count,
        offloaded_bytes=last_stays,
    )
    return replace(base, **changes)


def test_synchronous_copies_are_exposed_whole() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 4, stages=2, share=1.0))
    copies = [3, 3, 3, 0]
    costs = [costs_of(4, d2h=copies, h2d=copies, overlapped_copies=False)] * 2
    assert replay(schedule, costs, simulate(schedule, costs)).exposed == (18, 18)


def test_a_fetch_issued_late_is_exposed_and_one_issued_early_hides() -> None:
    costs = [costs_of(2, d2h=[3, 0], h2d=[15, 0])]
    late = build_schedule(make_plan(MODEL, (8,) * 2, stages=1, share=1.0, fetch_ahead=0))
    assert replay(late, costs, simulate(late, costs)).exposed == (15,)
    early = build_schedule(make_plan(MODEL, (8,) * 2, stages=1, share=1.0, fetch_ahead=1))
    assert replay(early, costs, simulate(early, costs)).exposed == (0,)


def test_waiting_for_a_message_is_not_waiting_for_a_copy() -> None:
    """The first stage's fetch ends with the message; on the last stage nothing else is missing."""
    schedule = build_schedule(make_plan(MODEL, (8,) * 2, stages=2, share=1.0, fetch_ahead=0))
    costs = [costs_of(2, h2d=[15, 0])] * 2
    assert replay(schedule, costs, simulate(schedule, costs)).exposed == (0, 15)


@settings(deadline=None, max_examples=60)
@given(
    message=st.lists(st.integers(0, 40), min_size=6, max_size=6),
    h2d=st.lists(st.integers(0, 40), min_size=6, max_size=6),
    stages=st.integers(1, 4),
    virtual_stages=st.integers(1, 2),
    fetch_ahead=st.integers(0, 1),
    overlapped=st.booleans(),
)
def test_every_compute_starts_when_the_last_thing_it_needs_is_there(
    message: list[int],
    h2d: list[int],
    stages: int,
    virtual_stages: int,
    fetch_ahead: int,
    overlapped: bool,
) -> None:
    """The replayed arrivals explain the simulator's own times, to the nanosecond."""
    plan = make_plan(
        MODEL,
        (8,) * 6,
        stages=stages,
        virtual_stages=virtual_stages,
        share=1.0,
        fetch_ahead=fetch_ahead,
    )
    schedule = build_schedule(plan)
    fetches = [*h2d[:5], 0]
    costs = [costs_of(6, message=message, d2h=fetches, h2d=fetches, overlapped_copies=overlapped)]
    costs *= stages * virtual_stages
    simulation = simulate(schedule, costs)
    found = replay(schedule, costs, simulation)
    arrived = {matching_receive(parse_instruction(e.name)): e.end for e in found.messages}
    assert len(found.messages) == sum(simulation.messages)
    for stage in range(stages):
        events = [event for event in simulation.events if event.stage == stage]
        ends = {parse_instruction(event.name): event.end for event in events}
        clock = 0
        for event in events:
            if event.lane != "compute":
                continue
            instruction = parse_instruction(event.name)
            ready = [clock]
            if instruction.op in (Op.FORWARD, Op.BACKWARD):
                ready += [arrived[one] for one in needed_receives(schedule, instruction)]
                if instruction.op is Op.BACKWARD:
                    ready.append(ends.get(instruction._replace(op=Op.FETCH), 0))
            assert event.start == max(ready)
            clock = event.end


def test_a_message_lies_with_its_sender_after_both_are_ready() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 2, stages=2))
    costs = [costs_of(2, message=[7, 7], offloaded_bytes=[0, 0])] * 2
    first = replay(schedule, costs, simulate(schedule, costs)).messages[0]
    assert (first.stage, first.name, first.lane) == (0, "SA0.0@0", "p2p")
    assert (first.start, first.end) == (10, 17)

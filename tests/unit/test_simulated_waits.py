"""The simulator's messages, waits and exposed copies: by hand, and against its own times."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sppo.config.models import gpt
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import PartCosts, unit_costs
from sppo.schedule.dependencies import Schedule, matching_receive, needed_receives
from sppo.schedule.instructions import Op
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Cause, Simulation
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
    assert simulate(schedule, costs).exposed_copies == (18, 18)


def test_a_late_reload_is_exposed_and_an_early_reload_hides() -> None:
    costs = [costs_of(2, d2h=[3, 0], h2d=[15, 0])]
    late = build_schedule(make_plan(MODEL, (8,) * 2, stages=1, share=1.0, fetch_ahead=0))
    assert simulate(late, costs).exposed_copies == (15,)
    early = build_schedule(make_plan(MODEL, (8,) * 2, stages=1, share=1.0, fetch_ahead=1))
    assert simulate(early, costs).exposed_copies == (0,)


def test_waiting_for_a_message_is_not_waiting_for_a_copy() -> None:
    """The first stage's reload ends with the message; the last stage waits for the reload alone."""
    schedule = build_schedule(make_plan(MODEL, (8,) * 2, stages=2, share=1.0, fetch_ahead=0))
    costs = [costs_of(2, h2d=[15, 0])] * 2
    assert simulate(schedule, costs).exposed_copies == (0, 15)


TIMES = st.lists(st.integers(0, 40), min_size=6, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    message=TIMES,
    d2h=TIMES,
    h2d=TIMES,
    stages=st.integers(1, 4),
    virtual_stages=st.integers(1, 2),
    fetch_ahead=st.integers(0, 1),
    overlapped=st.booleans(),
)
def test_the_waits_explain_all_idle_time(
    message: list[int],
    d2h: list[int],
    h2d: list[int],
    stages: int,
    virtual_stages: int,
    fetch_ahead: int,
    overlapped: bool,
) -> None:
    """A compute starts when its last message or copy has arrived; each wait ends at its cause."""
    plan = make_plan(
        MODEL,
        (8,) * 6,
        stages=stages,
        virtual_stages=virtual_stages,
        share=1.0,
        fetch_ahead=fetch_ahead,
    )
    schedule = build_schedule(plan)
    copies = {"d2h": [*d2h[:5], 0], "h2d": [*h2d[:5], 0]}
    costs = costs_of(6, message=message, overlapped_copies=overlapped, **copies)
    simulation = simulate(schedule, [costs] * (stages * virtual_stages))
    assert len(simulation.transfers) == sum(simulation.messages)
    for stage in range(stages):
        check_stage(schedule, simulation, stage)


def check_stage(schedule: Schedule, simulation: Simulation, stage: int) -> None:
    """The compute lane is its computes and its waits, end to end, in the order of the schedule."""
    arrived = {matching_receive(e.instruction): e.end for e in simulation.transfers}
    events = {e.instruction: e for e in simulation.events if e.stage == stage}
    waits = {(w.instruction, w.cause): w for w in simulation.waits if w.stage == stage}
    clock = copied = 0
    for instruction in schedule.stages[stage]:
        event = events.get(instruction)
        if event is None:
            continue
        if instruction.op is Op.OFFLOAD:
            copied = event.end
        if event.lane != "compute":
            continue
        causes = {Cause.MESSAGE: clock, Cause.RELOAD: clock}
        if instruction.op in (Op.FORWARD, Op.BACKWARD):
            needed = needed_receives(schedule, instruction)
            causes[Cause.MESSAGE] = max([clock, *(arrived[receive] for receive in needed)])
        reload = events.get(instruction._replace(op=Op.RELOAD))
        if instruction.op is Op.BACKWARD and reload is not None:
            causes[Cause.RELOAD] = reload.end
        for cause, ready in causes.items():
            wait = waits.pop((instruction, cause), None)
            assert (wait is not None) == (ready > clock)
            if wait is not None:
                assert (wait.start, wait.end) == (clock, ready)
                clock = ready
        assert event.start == clock
        clock = event.end
        late = waits.pop((instruction, Cause.OFFLOAD), None)
        if instruction.op in (Op.FORWARD, Op.BACKWARD):
            assert (late is not None) == (copied > clock)
            clock = max(clock, copied)
    assert not waits


def test_a_compute_ends_no_earlier_than_the_copy_issued_before_it() -> None:
    """Forwards of 10, copies of 25: the second forward ends at 35, and its copy begins there."""
    schedule = build_schedule(make_plan(MODEL, (8,) * 3, stages=1, share=1.0))
    simulation = simulate(schedule, [costs_of(3, d2h=[25, 25, 0])])
    late = [wait for wait in simulation.waits if wait.cause is Cause.OFFLOAD]
    assert [(str(w.instruction), w.start, w.end) for w in late] == [
        ("F0.1@0", 20, 35),
        ("F0.2@0", 45, 60),
    ]
    assert simulation.waited(Cause.OFFLOAD) == (30,)
    assert simulation.exposed_copies == (30,)
    assert simulation.forward_makespan == 60
    assert simulation.busy == (90,)
    assert simulation.kept_peak_bytes == (180,)


def test_a_message_lies_with_its_sender_after_both_are_ready() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 2, stages=2))
    costs = [costs_of(2, message=[7, 7], offloaded_bytes=[0, 0])] * 2
    first = simulate(schedule, costs).transfers[0]
    assert (first.stage, str(first.instruction), first.lane) == (0, "SEND_F0.0@0", "p2p")
    assert (first.start, first.end) == (10, 17)


@settings(deadline=None, max_examples=30)
@given(d2h=TIMES, stages=st.integers(1, 3), fetch_ahead=st.integers(0, 1))
def test_mixed_sequences_wait_for_offloads_as_the_engine_does(
    d2h: list[int], stages: int, fetch_ahead: int
) -> None:
    """A backward or a reload begins after all earlier copies to the host (`Engine._backward`)."""
    plan = make_plan(
        MODEL, (8,) * 6, stages=stages, share=1.0, fetch_ahead=fetch_ahead, sequences=3, mixed=True
    )
    schedule = build_schedule(plan)
    simulation = simulate(schedule, [costs_of(6, d2h=[*d2h[:5], 0])] * stages)
    for stage in range(stages):
        events = {event.instruction: event for event in simulation.events if event.stage == stage}
        copied = 0
        for instruction in schedule.stages[stage]:
            if instruction.op is Op.OFFLOAD:
                copied = events[instruction].end
            elif instruction.op in (Op.BACKWARD, Op.RELOAD):
                assert events[instruction].start >= copied


def test_a_backward_after_an_offload_waits_for_the_copy() -> None:
    plan = make_plan(MODEL, (8,) * 2, stages=1, share=1.0, sequences=2, mixed=True)
    simulation = simulate(build_schedule(plan), [costs_of(2, d2h=[70, 0])])
    late = [wait for wait in simulation.waits if wait.cause is Cause.OFFLOAD]
    assert any(wait.instruction.op is not Op.FORWARD for wait in late)

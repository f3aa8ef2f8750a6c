"""The simulator against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.models import gpt
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import unit_costs
from sppo.schedule.simulate import simulate
from tests.numerics.pipelines import make_plan

MODEL = gpt("gpt-test", layers=8, hidden=32, heads=4, vocabulary=61)


def test_paper_table_3_without_msp() -> None:
    """PP 4, N 8 in unit costs: the forward takes 11 units, 8 would be ideal."""
    schedule = build_schedule(make_plan(MODEL, (8,) * 8, stages=4))
    result = simulate(schedule, [unit_costs(8)] * 4)
    assert result.forward_makespan == 11
    assert result.makespan == 11 + 2 * 11
    assert result.bubble_share == pytest.approx(3 / 11)


@given(
    forward=st.lists(st.integers(1, 50), min_size=1, max_size=16),
    stages=st.integers(1, 8),
)
def test_makespan_is_the_sum_and_the_largest_for_every_later_stage(
    forward: list[int], stages: int
) -> None:
    """One sequence, equal stages: sum of costs + (PP - 1) * the largest (forward)."""
    count = len(forward)
    schedule = build_schedule(make_plan(MODEL, (8,) * count, stages=stages))
    costs = replace(unit_costs(count), forward=forward, backward=[2 * cost for cost in forward])
    result = simulate(schedule, [costs] * stages)
    assert result.forward_makespan == sum(forward) + (stages - 1) * max(forward)
    assert result.makespan == 3 * result.forward_makespan


def test_interleaved_chunks_divide_the_bubble() -> None:
    """PP 4, N 8, two chunks a stage of half a unit each: 8 + 3/2 units instead of 8 + 3."""
    schedule = build_schedule(make_plan(MODEL, (8,) * 8, stages=4, virtual_stages=2, group=4))
    result = simulate(schedule, [unit_costs(8)] * 8)
    assert result.forward_makespan == 2 * 8 + 3
    assert result.bubble_share == pytest.approx(3 / 19)


def test_synchronous_copies_take_compute_time_and_overlapped_ones_hide() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 4, stages=2, share=1.0, fetch_ahead=0))
    costs = replace(
        unit_costs(4),
        forward=[10] * 4,
        backward=[20] * 4,
        kept_bytes=[100] * 4,
        offloaded_bytes=[60, 60, 60, 0],
        d2h=[3, 3, 3, 0],
        h2d=[3, 3, 3, 0],
    )
    synchronous = simulate(schedule, [replace(costs, overlapped_copies=False)] * 2)
    free = simulate(schedule, [replace(costs, d2h=[0] * 4, h2d=[0] * 4)] * 2)
    assert synchronous.busy == (138, 138)
    assert synchronous.makespan > free.makespan
    ahead = build_schedule(make_plan(MODEL, (8,) * 4, stages=2, share=1.0, fetch_ahead=1))
    assert simulate(ahead, [costs] * 2).makespan == free.makespan


def test_bytes_come_from_the_order_of_instructions() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 3, stages=1, share=1.0, fetch_ahead=0))
    costs = replace(
        unit_costs(3),
        kept_bytes=[100, 90, 80],
        offloaded_bytes=[70, 60, 0],
        overlapped_copies=False,
    )
    result = simulate(schedule, [costs])
    assert result.kept_peak_bytes == (140,)  # 30 + 30 + 80 at the turn; 30 + 90 before
    assert result.host_peak_bytes == (130,)


def test_messages_are_counted_with_their_bytes() -> None:
    schedule = build_schedule(make_plan(MODEL, (8,) * 3, stages=3, sequences=2))
    costs = replace(unit_costs(3), message_bytes=[5, 6, 7])
    result = simulate(schedule, [costs] * 3)
    assert result.messages == (6, 12, 6)
    assert result.message_bytes == (36, 72, 36)

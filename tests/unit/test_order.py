"""The order of a stage's computes: one function for the planner's memory and for the schedule."""

from __future__ import annotations

import pytest

from sppo.config.models import gpt
from sppo.plan.layout import Layout
from sppo.plan.plan import Plan
from sppo.schedule.build import build_schedule
from sppo.schedule.instructions import Op
from sppo.schedule.order import Compute, forward_order, stage_computes
from tests.numerics.pipelines import make_plan

MODEL = gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=61)

PLANS = {
    "one chunk a stage": make_plan(MODEL, (12, 12, 12), stages=2),
    "head alone": make_plan(MODEL, (12,) * 5, stages=2, virtual_stages=2, group=4, head_alone=True),
    "mixed": make_plan(MODEL, (12, 12), stages=4, sequences=3, mixed=True),
    "MSP": make_plan(MODEL, (12,) * 6, stages=4, msp=True),
}


@pytest.mark.parametrize("name", PLANS)
def test_the_schedule_computes_in_the_layouts_order(name: str) -> None:
    plan: Plan = PLANS[name]
    schedule = build_schedule(plan)
    for stage, instructions in enumerate(schedule.stages):
        parts = plan.parts_of(stage)
        ran = [
            Compute(each.op is Op.FORWARD, each.sequence, parts.index(each.part), each.subsequence)
            for each in instructions
            if each.op in (Op.FORWARD, Op.BACKWARD)
        ]
        assert ran == stage_computes(plan, stage, plan.sequences)
        forwards = [compute[2:] for compute in ran if compute.forward and not compute.sequence]
        assert forwards == forward_order(plan, stage)


def test_a_bare_layout_has_an_order() -> None:
    layout = Layout(
        sequence_parallel=1,
        pipeline_parallel=2,
        virtual_stages=2,
        group_subsequences=2,
        lengths_tokens=(8, 8, 8),
    )
    assert forward_order(layout, 0) == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
    computes = stage_computes(layout, 1, 1)
    assert [compute[2:] for compute in computes[6:]] == forward_order(layout, 1)[::-1]

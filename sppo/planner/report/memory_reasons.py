"""Why a plan offloads and recomputes, and the time of its copies, in sentences. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sppo.config.sizes import format_bytes
from sppo.cost_model.plan_costs import part_offloaded_bytes
from sppo.plan.plan import Plan
from sppo.planner.activations.policies import uniform
from sppo.planner.activations.stage_problem import exposed_copies_ns
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.report.wording import ranges, sentence
from sppo.schedule.order import forward_order


def memory_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """The device limit, the peak if all tensors were kept, and what the plan does instead."""
    limit = layout.workload.device_memory_bytes
    problems = [stage_problem(layout, stage) for stage in layout.end_stages]
    everything = max(problem.memory(uniform(problem)).device_peak for problem in problems)
    name = "no limit"
    if limit is not None:
        name = "all fits" if everything <= limit else "too much"
    need = sentence(
        name,
        limit=format_bytes(limit or 0),
        all=format_bytes(everything),
        excess=format_bytes(everything - (limit or 0)),
    )
    peak = max(stage.memory.device_peak for stage in plan.stages)
    decided = " and ".join(_decided(plan, layout)) or sentence("all kept")
    yield f"{need}; {decided}; {sentence('peak', peak=format_bytes(peak))}"
    if plan.kv_block_tokens:
        hosted = max(stage.memory.kv_host for stage in plan.stages)
        yield sentence("hosted", tokens=plan.kv_block_tokens, size=format_bytes(hosted))


def _decided(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    share = sum(stage.offload_share for stage in plan.stages) / len(plan.stages)
    if share:
        yield sentence("offloaded", share=share)
    recomputed = {name for part in plan.parts for row in part.recompute_units for name in row}
    if recomputed:
        names = [name for name in layout.shapes[0].saved_tensors if name in recomputed]
        seconds = max(times.recompute_ns for times in _stage_times(plan, layout)) / 1e9
        work = layout.work_and_ends_seconds[0]
        yield sentence("recomputed", names=", ".join(names), seconds=seconds, share=seconds / work)


def copy_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """Which copies take longer than the compute that hides them; nothing without copies."""
    if not any(stage.memory.host for stage in plan.stages):
        return
    worst = max(_stage_times(plan, layout), key=lambda times: times.exposed_ns)
    name = "exposed" if worst.exposed_ns else "hidden"
    if not layout.profile.overlapped_copies:
        name = "synchronous"
    yield sentence(name, indices=ranges(worst.exposed), seconds=worst.exposed_ns / 1e9)


@dataclass(frozen=True, kw_only=True)
class _StageTimes:
    """Of one stage in one step (ns): exposed copies, of which subsequences, and recomputation."""

    exposed_ns: int
    exposed: tuple[int, ...]
    recompute_ns: int


def _stage_times(plan: Plan, layout: TimedLayout) -> Iterator[_StageTimes]:
    """Of the stages that differ: the first, the second and the last."""
    for stage in sorted({*layout.end_stages, min(1, layout.pipeline_parallel - 1)}):
        problem = stage_problem(layout, stage)
        parts = plan.stages[stage].parts
        order = [place for place in forward_order(layout, stage) if place[0] < len(parts)]
        numbers = range(stage, layout.part_count, layout.pipeline_parallel)
        moved = [part_offloaded_bytes(plan, number) for number in numbers]
        exposed = {}
        recomputed = 0
        for (part, index), following in zip(order, [*order[1:], order[-1]], strict=True):
            cost = problem.costs[following[0]][following[1]]
            size = moved[part][index]
            exposed[part, index] = exposed_copies_ns(layout.profile, size, cost)
            recomputed += problem.recompute_ns(part, index, parts[part].recompute_units[index])
        yield _StageTimes(
            exposed_ns=layout.sequences * sum(exposed.values()),
            exposed=tuple(sorted({index for (_, index), excess in exposed.items() if excess})),
            recompute_ns=layout.sequences * recomputed,
        )

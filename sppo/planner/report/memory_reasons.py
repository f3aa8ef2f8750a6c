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
from sppo.planner.report.wording import ranges
from sppo.schedule.order import forward_order


def memory_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """The device limit, the peak if all tensors were kept, and what the plan does instead."""
    problems = [stage_problem(layout, stage) for stage in layout.end_stages]
    need = _need(max(problem.memory(uniform(problem)).device_peak for problem in problems), layout)
    decided = " and ".join(_decided(plan, layout)) or "nothing is offloaded or recomputed"
    peak = max(stage.memory.device_peak for stage in plan.stages)
    yield f"{need}; {decided}; the predicted peak is {format_bytes(peak)}"
    if plan.kv_block_tokens:
        hosted = max(stage.memory.kv_host for stage in plan.stages)
        yield (
            f"K, V and their gradients are in the host tier and are reloaded in blocks of "
            f"{plan.kv_block_tokens:,} tokens: on the device they would take {format_bytes(hosted)}"
        )


def _need(everything: int, layout: TimedLayout) -> str:
    """The bytes if all saved tensors were kept, against the device limit."""
    limit = layout.workload.device_memory_bytes
    whole = format_bytes(everything)
    if limit is None:
        return f"no device limit: keeping all saved tensors takes {whole}"
    if everything <= limit:
        return (
            f"device limit {format_bytes(limit)}: keeping all saved tensors takes {whole}, which "
            f"fits"
        )
    return (
        f"device limit {format_bytes(limit)}: keeping all saved tensors would take {whole} on the "
        f"fullest stage, {format_bytes(everything - limit)} too much"
    )


def _decided(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    share = sum(stage.offload_share for stage in plan.stages) / len(plan.stages)
    if share:
        yield f"on average {share:.0%} of the saved bytes of a subsequence are offloaded"
    recomputed = {name for part in plan.parts for row in part.recompute_units for name in row}
    if recomputed:
        names = ", ".join(name for name in layout.shapes[0].saved_tensors if name in recomputed)
        seconds = max(times.recompute_ns for times in _stage_times(plan, layout)) / 1e9
        of_work = seconds / layout.work_and_ends_seconds[0]
        yield f"{names} are recomputed ({seconds:.3f} s, {of_work:.1%} of the work)"


def copy_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """Which copies take longer than the compute that hides them; nothing without copies."""
    if not any(stage.memory.host for stage in plan.stages):
        return
    worst = max(_stage_times(plan, layout), key=lambda times: times.exposed_ns)
    seconds = worst.exposed_ns / 1e9
    if not layout.profile.overlapped_copies:
        yield (
            f"copies are synchronous on this hardware: on the stage with most copies, copies take "
            f"{seconds:.3f} s of compute time"
        )
    elif worst.exposed_ns:
        yield (
            f"copies of subsequences {ranges(worst.exposed)} are longer than the compute that "
            f"hides them: the excess is {seconds:.3f} s in all on the stage with the largest excess"
        )
    else:
        yield "every copy is shorter than the compute that hides it: no copy is exposed"


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

"""What memory forced on a plan and what its copies cost, in words. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sppo.config.sizes import format_bytes
from sppo.cost_model.times import copy_ns, recompute_ns
from sppo.memory_model.stage_memory import KEEP
from sppo.plan.plan import Plan
from sppo.planner.activations.policies import uniform
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.report.wording import in_order, ranges
from sppo.schedule.order import forward_order


def memory_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """The limit, what keeping everything would take, and what is done instead."""
    limit = layout.workload.device_memory_bytes
    everything = _everything_bytes(layout)
    if limit is None:
        words = f"no device limit: keeping everything takes {format_bytes(everything)}"
    elif everything <= limit:
        words = (
            f"device limit {format_bytes(limit)}: keeping everything takes "
            f"{format_bytes(everything)} on the fullest stage, which fits"
        )
    else:
        words = (
            f"device limit {format_bytes(limit)}: keeping everything would take "
            f"{format_bytes(everything)} on the fullest stage, "
            f"{format_bytes(everything - limit)} too much"
        )
    peak = max(stage.memory.device_peak for stage in plan.stages)
    yield f"{words}; {_instead(plan, layout)}, predicted peak {format_bytes(peak)}"
    if plan.kv_block_tokens:
        hosted = max(stage.memory.kv_host for stage in plan.stages)
        yield (
            f"K, V and their gradients lie in the host tier and come in blocks of "
            f"{plan.kv_block_tokens:,} tokens: on the device they would take {format_bytes(hosted)}"
        )


def _everything_bytes(layout: TimedLayout) -> int:
    peaks = []
    for stage in {0, layout.pipeline_parallel - 1}:
        problem = stage_problem(layout, stage)
        peaks.append(problem.memory(uniform(problem, KEEP, lambda part, index: 0.0)).device_peak)
    return max(peaks)


def _instead(plan: Plan, layout: TimedLayout) -> str:
    travels = sum(stage.offload_share for stage in plan.stages) / len(plan.stages)
    names = {name for part in plan.parts for row in part.recompute_units for name in row}
    words = []
    if travels:
        words.append(f"on average {travels:.0%} of the kept bytes of a subsequence travel")
    if names:
        again = max(moves.again_ns for moves in _all_moves(plan, layout)) / 1e9
        share = again / layout.work_and_ends_seconds[0]
        words.append(
            f"{in_order(plan.model, names)} are made again ({again:.3f} s, {share:.1%} of work)"
        )
    return " and ".join(words) or "nothing travels or is made again"


def copy_reasons(plan: Plan, layout: TimedLayout) -> Iterator[str]:
    """Which copies take longer than the compute that they lie under."""
    moves = _all_moves(plan, layout)
    if not any(one.copies_ns for one in moves):
        return
    fullest = max(moves, key=lambda one: one.exposed_ns)
    if not layout.profile.overlapped_copies:
        yield (
            "copies are synchronous on this hardware: they take "
            f"{fullest.copies_ns / 1e9:.3f} s of the compute of the stage that copies most"
        )
    elif fullest.exposed_ns == 0:
        yield "every copy is shorter than the compute that runs beside it: none is exposed"
    else:
        yield (
            f"copies of subsequences {ranges(fullest.exposed)} are longer than the compute beside "
            f"them, by {fullest.exposed_ns / 1e9:.3f} s in all on the stage with most of it"
        )


@dataclass(frozen=True, kw_only=True)
class _Moves:
    """One stage, one step: its copies, what of them nothing hides, and what is made again (ns)."""

    copies_ns: int
    exposed_ns: int
    exposed: tuple[int, ...]
    again_ns: int


def _all_moves(plan: Plan, layout: TimedLayout) -> list[_Moves]:
    """Of the stages that differ: the first, one between and the last."""
    stages = {0, min(1, layout.pipeline_parallel - 1), layout.pipeline_parallel - 1}
    return [_moves(plan, layout, stage) for stage in sorted(stages)]


def _moves(plan: Plan, layout: TimedLayout, stage: int) -> _Moves:
    profile, order = layout.profile, forward_order(layout, stage)
    shapes = layout.shapes[stage :: layout.pipeline_parallel]
    costs = [layout.part_costs(shape) for shape in shapes]
    copies = exposed = again = 0
    late = set()
    own = [one for one in order if one[0] < len(shapes)]  # nothing borrowed is moved
    for position, (virtual, index) in enumerate(own):
        part, shape = plan.stages[stage].parts[virtual], shapes[virtual]
        number = stage + virtual * layout.pipeline_parallel
        tokens = layout.slicing.tokens_of(number, index, stage)
        size = sum(
            shape.saved_tensor_bytes(shape.saved_tensors[name], tokens)
            for _, name in part.offload_units[index]
        )
        out = copy_ns(size, profile.d2h_bytes_per_second)
        back = copy_ns(size, profile.h2d_bytes_per_second)
        copies += out + back
        again += len(shape.layers) * recompute_ns(
            plan.model,
            profile,
            part.recompute_units[index],
            start=layout.starts_tokens[index],
            tokens=tokens,
            shards=layout.sequence_parallel,
        )
        if profile.overlapped_copies:
            beside = own[min(position + 1, len(own) - 1)]
            cost = costs[beside[0]][beside[1]]
            excess = max(0, out - cost.forward_ns) + max(0, back - cost.backward_ns)
        else:
            excess = out + back
        exposed += excess
        if excess:
            late.add(index)
    sequences = layout.sequences
    return _Moves(
        copies_ns=sequences * copies,
        exposed_ns=sequences * exposed,
        exposed=tuple(sorted(late)),
        again_ns=sequences * again,
    )

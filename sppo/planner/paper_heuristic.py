"""The paper's own heuristic (sec. 6.1), as printed, for comparison with ours.

Minimise T(N) = (PP - 1 + N) / N * F(N) over SP inside a node and N such that a device computes 2K
to 16K tokens of a subsequence. Offload alpha_i = min(1, BW_D2H * T / A_i) of each (sec. 5.2).
Memory is model state + max M_i with M_i = M_(i-1) + A_i - alpha_(i-1) A_(i-1), where A holds K and
V. The printed model has no dKV accumulators, no staging and no temporaries, and cuts by FLOPs
without a cap. If no layout obeys the pruning rules, the one that breaks the fewest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sppo.config.errors import Infeasible
from sppo.config.sizes import format_bytes
from sppo.config.workload import Workload
from sppo.memory_model.decisions import KEEP
from sppo.plan.plan import Plan
from sppo.planner.activations.policies import choose, uniform
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import plan_of, stage_problem
from sppo.planner.layouts.timed_layout import TimedLayout

TOKENS_PER_DEVICE = (2 * 1024, 16 * 1024)


def solve_paper(workload: Workload, layouts: Sequence[TimedLayout]) -> Plan:
    """The plan of the printed heuristic; its reasons say where the whole memory model disagrees.

    Raises Infeasible if no layout fits by the printed model.
    """
    plain = [layout for layout in layouts if layout.virtual_stages == 1]
    uncapped = [layout for layout in plain if _is_uncapped(layout, layouts)]
    uncapped.sort(key=lambda layout: (_broken_rules(layout), _iteration_seconds(layout)))
    limit = workload.device_memory_bytes
    for layout in uncapped:
        problems = [stage_problem(layout, stage) for stage in layout.end_stages]
        excess = max(printed_bytes(problem) - limit if limit else 0 for problem in problems)
        if excess <= 0:
            return _plan(layout)
    raise Infeasible(
        f"{workload.name}: no layout fits by the paper's memory model; the best is short by "
        f"{format_bytes(excess)}. Raise the device memory, shorten the sequence, or use more ranks"
    )


def _is_uncapped(layout: TimedLayout, layouts: Sequence[TimedLayout]) -> bool:
    """Whether no cap cut the early lengths: of cuts with this last length, the longest first."""
    cut = layout.sequence_parallel, layout.pipeline_parallel, layout.lengths_tokens[-1]
    firsts = [
        member.lengths_tokens[0]
        for member in layouts
        if (member.sequence_parallel, member.pipeline_parallel, member.lengths_tokens[-1]) == cut
    ]
    return layout.lengths_tokens[0] == max(firsts)


def _broken_rules(layout: TimedLayout) -> int:
    """How many of the paper's pruning rules a layout breaks."""
    mean = layout.workload.sequence_tokens / layout.subsequences / layout.sequence_parallel
    least, most = TOKENS_PER_DEVICE
    crowded = layout.sequence_parallel > layout.profile.ranks_per_node
    return int(crowded) + int(not least <= mean <= most)


def _iteration_seconds(layout: TimedLayout) -> float:
    """T(N) = (PP - 1 + N) / N * F(N), F the compute of the fullest stage."""
    count = layout.subsequences
    fullest = max(sum(layout.part_ns(layout.shapes[end])) for end in (0, -1)) / 1e9
    return (layout.pipeline_parallel - 1 + count) / count * fullest


def printed_bytes(problem: StageProblem) -> int:
    """Device bytes of a stage by the paper's model: model state and the largest M_i."""
    (shape,) = problem.shapes
    memory = problem.memory(uniform(problem))
    state = memory.weights + memory.gradients + memory.optimizer
    total = most = offloaded = 0
    for index, tokens in enumerate(problem.lengths):
        total += problem.kept_bytes(0, index, KEEP) + shape.kv_bytes(tokens, shape.element_bytes)
        total -= offloaded
        most = max(most, total)
        offloaded = int(problem.hidden_share(0, index) * shape.offloadable_bytes(tokens))
    return state + most


def _plan(layout: TimedLayout) -> Plan:
    free = replace(layout.workload, device_memory_bytes=None, host_memory_bytes=None)
    plan = plan_of(replace(layout, workload=free), lambda problem: choose(problem, "paper"))
    reasons = [
        f"T(N) = (PP - 1 + N) / N * F(N) = {_iteration_seconds(layout):.3f} s is the least that "
        f"the paper's rules and memory model allow",
    ]
    limit = layout.workload.device_memory_bytes
    whole = max(stage.memory.device_peak for stage in plan.stages)
    if limit is not None:
        over = f"{format_bytes(whole - limit)} over the limit"
        reasons.append(
            f"with dKV, staging, temporaries and untracked bytes the fullest stage takes "
            f"{format_bytes(whole)}, {'which fits' if whole <= limit else over}"
        )
    if _broken_rules(layout):
        reasons.append("no layout obeys every pruning rule; the nearest is taken")
    return replace(plan, reasons=tuple(reasons))

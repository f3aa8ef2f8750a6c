"""(workload, ranks, profile) -> Plan: SP, PP, N, the cut and every tensor's fate, with reasons.

Three solvers on one cost model. "heuristic" (default) tries layouts in the order of their compute
time, gives each stage the cheapest fates that fit (`policies.py`) and simulates the very schedule
that would run; the least makespan wins. "exact" replaces the fates by an integer program
(`exact.py`). "paper" is the paper's own heuristic (`paper.py`). Memory is the whole model of
`memory.py`, KV and dKV accumulators included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sppo import policies
from sppo.errors import Infeasible, Short
from sppo.fates import StageFates, StageProblem
from sppo.layouts import CUTS, GROUP_STAGES, Layout, cuts, degrees, even_group, interleavings
from sppo.plan import Plan, StagePlan
from sppo.policies import POLICIES
from sppo.predict import simulate_plan
from sppo.profile import Profile
from sppo.workload import Workload, format_bytes

SOLVERS = ("heuristic", "exact", "paper")

SIMULATED = 12
"""Layouts that fit and are simulated, best first, before the heuristic stops looking."""

REJECTED = 12
"""Layouts that did not fit and are named in a plan."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What the user fixes; None leaves it to the solver. Policies: see `policies.POLICIES`.

    cut: "flops" (the paper's), "equal" or "time"; longest_tokens caps the lengths of "flops".
    """

    pipeline_parallel: int | None = None
    sequence_parallel: int | None = None
    subsequences: int | None = None
    virtual_stages: int | None = None
    group_subsequences: int | None = None
    policy: str = "auto"
    cut: str = "flops"
    longest_tokens: int | None = None
    solver: str = "heuristic"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("policy", self.policy, POLICIES),
            ("cut", self.cut, CUTS),
            ("solver", self.solver, SOLVERS),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: take one of {', '.join(known)}")
        if self.solver == "exact" and self.policy != "auto":
            raise ValueError(
                f"the exact solver decides every tensor's fate: it has no policy {self.policy!r}; "
                "take --policy auto, or the heuristic solver"
            )


def solve(workload: Workload, profile: Profile, options: SolverOptions | None = None) -> Plan:
    """The fastest plan that fits, by simulation.

    Raises Infeasible (which resource is short, by how much), or ValueError.
    """
    options = options or SolverOptions()
    try:
        return _solve(workload, profile, options)
    except Infeasible as error:
        fits = longest_tokens(workload, profile, options)
        raise Infeasible(f"{error} (the longest that fits has about {fits:,} tokens)") from None


def _solve(workload: Workload, profile: Profile, options: SolverOptions) -> Plan:
    layouts = sorted(_layouts(workload, profile, options), key=lambda one: one.least_seconds)
    if options.solver == "paper":
        from sppo.paper import solve_paper

        return solve_paper(workload, layouts)
    if options.solver == "exact":
        from sppo.exact import cheapest_fates

        best = _search(layouts, cheapest_fates, len(layouts))
        rough = _search(layouts, _policy(options.policy), SIMULATED)
        if rough.makespan_seconds < best.makespan_seconds:
            best = rough  # equal added time, placed where the pipeline waits anyway
        gap = rough.makespan_seconds / best.makespan_seconds - 1
        note = f"exact over {len(layouts)} layouts; the heuristic's plan takes {gap:+.2%}"
        return replace(best, reasons=(*best.reasons, note))
    return _search(layouts, _policy(options.policy), SIMULATED)


def longest_tokens(workload: Workload, profile: Profile, options: SolverOptions) -> int:
    """The longest sequence for which a layout fits, to a 64th of the asked one; 0 if none does.

    Looks only at each layout's finest cuts, which need the least memory.
    """
    step = max(2, workload.sequence_tokens // 64)
    if options.subsequences is not None:
        step = max(step, options.subsequences)

    def fits(steps: int) -> bool:
        shorter = replace(workload, sequence_tokens=steps * step)
        layouts: dict[tuple[int, int, int], list[Layout]] = {}
        for layout in _layouts(shorter, profile, replace(options, solver="heuristic")):
            degrees = layout.sequence_parallel, layout.pipeline_parallel, layout.virtual_stages
            layouts.setdefault(degrees, []).append(layout)
        return any(_fits(layout, options) for group in layouts.values() for layout in group[-2:])

    low, high = 0, workload.sequence_tokens // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * step


def _fits(layout: Layout, options: SolverOptions) -> bool:
    try:
        for stage in {0, layout.pipeline_parallel - 1}:
            problem = stage_problem(layout, stage)
            problem.require_room()
            problem.require_fit(problem.memory(policies.choose(problem, options.policy)))
    except Short:
        return False
    return True


Choose = Callable[[StageProblem], StageFates]


def _policy(name: str) -> Choose:
    return lambda problem: policies.choose(problem, name)


def _layouts(workload: Workload, profile: Profile, options: SolverOptions) -> Iterator[Layout]:
    for shards, stages in degrees(workload, options.sequence_parallel, options.pipeline_parallel):
        for virtual_stages in interleavings(workload.model.layers, stages, options.virtual_stages):
            for lengths in cuts(
                workload,
                profile,
                shards,
                options.subsequences,
                options.cut,
                options.longest_tokens,
            ):
                group = options.group_subsequences
                yield Layout(
                    workload=workload,
                    profile=profile,
                    sequence_parallel=shards,
                    pipeline_parallel=stages,
                    virtual_stages=virtual_stages,
                    group_subsequences=group or even_group(len(lengths), GROUP_STAGES * stages),
                    lengths=lengths,
                )


def _search(layouts: list[Layout], choose: Choose, simulated: int) -> Plan:
    """The least simulated makespan of the layouts, in their order; `simulated` at most.

    Stops where a layout's compute alone takes longer than the best plan. Raises Infeasible.
    """
    best: Plan | None = None
    rejected: list[str] = []
    nearest: Short | None = None
    for layout in layouts:
        if best is not None and (simulated == 0 or layout.least_seconds >= best.makespan_seconds):
            break
        try:
            plan = plan_of(layout, choose)
        except Short as short:
            rejected.append(f"{layout}: short of {short}")
            if nearest is None or short.bytes < nearest.bytes:
                nearest = short
            continue
        simulated -= 1
        if best is None or plan.makespan_seconds < best.makespan_seconds:
            best = plan
    if best is None:
        assert nearest is not None
        raise Infeasible(
            f"{layouts[0].workload.name}: no plan fits; the nearest is short by {nearest}. Raise "
            f"the device or host memory, use more ranks, or shorten the sequence"
        )
    if len(rejected) > REJECTED:
        rejected[REJECTED:] = [f"and {len(rejected) - REJECTED} more layouts"]
    return replace(best, rejected=tuple(rejected))


def stage_problem(layout: Layout, stage: int) -> StageProblem:
    """What one stage of a layout has to decide."""
    shapes = layout.shapes[stage :: layout.pipeline_parallel]
    return StageProblem(
        shapes=shapes,
        order=layout.order,
        starts=layout.starts,
        lengths=layout.lengths,
        messages_ahead=layout.messages_ahead,
        profile=layout.profile,
        costs=tuple(layout.part_costs(shape) for shape in shapes),
        device_limit_bytes=layout.workload.device_memory_bytes,
        host_limit_bytes=layout.workload.host_memory_bytes,
    )


def plan_of(layout: Layout, choose: Choose) -> Plan:
    """Fates for every stage, then the simulation. Raises Short."""
    chosen: dict[tuple[object, ...], StageFates] = {}
    stages: list[StagePlan] = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        alike = tuple((len(s.layers), s.first, s.last) for s in problem.shapes)
        if alike not in chosen:
            problem.require_room()
            chosen[alike] = choose(problem)
        stages.append(problem.stage_plan(chosen[alike]))
    workload, profile = layout.workload, layout.profile
    draft = Plan(
        workload=workload.name,
        model=workload.model,
        sequence_tokens=workload.sequence_tokens,
        sequences_per_step=workload.sequences_per_step,
        element_bytes=workload.element_bytes,
        hardware=profile.name,
        sequence_parallel=layout.sequence_parallel,
        pipeline_parallel=layout.pipeline_parallel,
        virtual_stages=layout.virtual_stages,
        group_subsequences=layout.group_subsequences,
        lengths_tokens=layout.lengths,
        stages=tuple(stages),
        fetch_ahead=1 if profile.overlapped_copies else 0,
        makespan_seconds=0.0,
        bubble_share=0.0,
        reasons=(),
        rejected=(),
    )
    simulation = simulate_plan(draft, profile)
    timed = replace(
        draft,
        makespan_seconds=simulation.makespan / 1e9,
        bubble_share=simulation.bubble_share,
    )
    return replace(timed, reasons=_reasons(workload, timed, profile))


def _reasons(workload: Workload, plan: Plan, profile: Profile) -> tuple[str, ...]:
    """What bound, in words."""
    reasons = [
        f"N {plan.subsequences} with {plan.virtual_stages} part(s) a stage has the least simulated "
        f"makespan: fewer, longer subsequences leave more bubble than its "
        f"{plan.bubble_share:.1%}, shorter ones lose kernel efficiency",
    ]
    limit = workload.device_memory_bytes
    if limit is None:
        reasons.append("no device limit: nothing needs to travel or to be recomputed")
    else:
        tightest = max(stage.memory.total for stage in plan.stages)
        reasons.append(
            f"device limit {format_bytes(limit)}: the fullest stage is predicted at "
            f"{format_bytes(tightest)}; the cheapest fates that fit are taken"
        )
    if not profile.overlapped_copies:
        reasons.append("copies are synchronous on this hardware and charged as compute")
    return tuple(reasons)

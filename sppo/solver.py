"""(workload, ranks, profile) -> Plan: SP, PP, N, the cut and every tensor's fate, with reasons.

Three solvers on one cost model. "heuristic" (default) tries layouts in the order of their compute
time, gives each stage the cheapest fates that fit (`policies.py`) and simulates the very schedule
that would run; the least makespan wins. "exact" replaces the fates by an integer program
(`exact.py`). "paper" is the paper's own heuristic (`paper.py`). Memory is the whole model of
`memory.py`, KV and dKV accumulators included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from sppo import policies
from sppo.bounds import require_host_room
from sppo.errors import Infeasible, Short
from sppo.fates import StageFates, StageProblem
from sppo.layouts import CUTS, GROUP_STAGES, Layout, cuts, degrees, even_group, interleavings
from sppo.memory import block_tokens
from sppo.plan import Plan, StagePlan
from sppo.policies import POLICIES
from sppo.predict import simulate_plan
from sppo.profile import Profile
from sppo.search import Search
from sppo.workload import Workload

SOLVERS = ("heuristic", "exact", "paper")

SIMULATED = 12
"""Layouts that fit and are simulated, best first, before the heuristic stops looking."""

CRAMPED = 1.1
"""Makespan over the least compute time of any layout, beyond which hosted K and V are tried too."""

REJECTED = 12
"""Layouts that did not fit and are named in a plan."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What the user fixes; None leaves it to the solver. Policies: see `policies.POLICIES`.

    cut: "flops" (the paper's), "equal" or "time"; longest_tokens caps the lengths of "flops".
    kv_offload: K, V and their gradients in the host tier or not; None: where nothing else fits.
    head_alone: the head as a part of its own on the first stage, which waits anyway when its turn
    comes; None: where a stage has several parts and is one rank.
    """

    pipeline_parallel: int | None = None
    sequence_parallel: int | None = None
    subsequences: int | None = None
    virtual_stages: int | None = None
    group_subsequences: int | None = None
    policy: str = "auto"
    cut: str = "flops"
    longest_tokens: int | None = None
    kv_offload: bool | None = None
    head_alone: bool | None = None
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
    asked = options = options or SolverOptions()
    resident: Plan | None = None
    if options.kv_offload is None and options.solver != "paper":
        with suppress(Infeasible):
            resident = _solve(workload, profile, replace(options, kv_offload=False))
        if resident is not None and not _cramped(workload, profile, options, resident):
            return resident
        options = replace(options, kv_offload=True)
    try:
        hosted = _solve(workload, profile, options)
        if resident is None or hosted.makespan_seconds < resident.makespan_seconds:
            return hosted
        return resident
    except Infeasible as error:
        if resident is not None:
            return resident
        from sppo.longest import longest_words

        raise Infeasible(f"{error}; {longest_words(workload, profile, asked)}") from None


def _cramped(workload: Workload, profile: Profile, options: SolverOptions, plan: Plan) -> bool:
    """Whether memory costs a plan so much that K and V may be better off in the host tier."""
    if workload.device_memory_bytes is None:
        return False
    least = min(layout.least_seconds for layout in every_layout(workload, profile, options))
    return plan.makespan_seconds > CRAMPED * least


def _solve(workload: Workload, profile: Profile, options: SolverOptions) -> Plan:
    layouts = sorted(every_layout(workload, profile, options), key=lambda one: one.least_seconds)
    if options.solver == "paper":
        from sppo.paper import solve_paper

        return solve_paper(workload, layouts)
    if options.solver == "exact":
        from sppo.exact import cheapest_fates

        best = _search(layouts, _bounded(cheapest_fates), len(layouts))
        rough = _search(layouts, _policy(options.policy), SIMULATED)
        if rough.makespan_seconds < best.makespan_seconds:
            best = rough  # equal added time, placed where the pipeline waits anyway
        gap = rough.makespan_seconds / best.makespan_seconds - 1
        note = f"exact over {len(layouts)} layouts; the heuristic's plan takes {gap:+.2%}"
        return replace(best, reasons=(*best.reasons, note))
    return _search(layouts, _policy(options.policy), SIMULATED)


Choose = Callable[[StageProblem], StageFates]


def _policy(name: str) -> Choose:
    def choose(problem: StageProblem) -> StageFates:
        return policies.choose(problem, name)

    return _bounded(choose) if name == "auto" else choose


def _bounded(choose: Choose) -> Choose:
    """The same, but quick to say that the host tier is too small."""

    def bounded(problem: StageProblem) -> StageFates:
        require_host_room(problem)
        return choose(problem)

    return bounded


def every_layout(workload: Workload, profile: Profile, options: SolverOptions) -> Iterator[Layout]:
    """The layouts that the options leave, each with every cut worth a try."""
    for shards, stages in degrees(workload, options.sequence_parallel, options.pipeline_parallel):
        kv_block_tokens = 0
        if options.kv_offload:
            kv_block_tokens = block_tokens(workload, shards)
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
                    kv_block_tokens=kv_block_tokens,
                    kv_sets=2 if _mixes(workload, stages, virtual_stages) else 1,
                    head_alone=_parts_the_head(options, shards, stages, virtual_stages),
                )


def _parts_the_head(options: SolverOptions, shards: int, stages: int, virtual_stages: int) -> bool:
    """Whether the head is a part of its own: only interleaved stages give it time to come back."""
    possible = stages > 1 and virtual_stages > 1
    if options.head_alone and not possible:
        raise ValueError(
            "the head can be a part of its own only where a stage has several parts: take "
            "--virtual-stages 2 or more, or leave the head to the solver"
        )
    if options.head_alone is None:
        return possible and shards == 1  # sharded, the first stage has no room for both ends
    return options.head_alone


def _mixes(workload: Workload, stages: int, virtual_stages: int) -> bool:
    """Whether the sequences of a step are mixed in the pipeline: not between interleaved parts."""
    return workload.sequences_per_step > 1 and stages > 1 and virtual_stages == 1


def _search(layouts: list[Layout], choose: Choose, simulated: int) -> Plan:
    """The least simulated makespan of the layouts, in their order; `simulated` at most.

    Stops where a layout's compute alone takes longer than the best plan, and passes over families
    whose finest cut does not fit. Raises Infeasible.
    """
    from sppo.reasons import explain

    best: tuple[Plan, Layout] | None = None
    search = Search(layouts=layouts)
    hopeless: dict[tuple[int, ...], bool] = {}
    for layout in layouts:
        if hopeless.get(layout.family):
            continue
        least = float("inf") if best is None else best[0].makespan_seconds
        if best is not None and (simulated == 0 or layout.least_seconds >= least):
            break
        try:
            plan = plan_of(layout, choose)
        except Short as short:
            search.short[layout] = short
            if layout.family not in hopeless:
                hopeless[layout.family] = _is_hopeless(layout, search, choose)
            continue
        simulated -= 1
        search.seconds[layout] = plan.makespan_seconds
        if plan.makespan_seconds < least:
            best = plan, layout
    if best is None:
        nearest = min(search.finest_short, key=lambda one: search.short[one].bytes)
        raise Infeasible(
            f"{nearest.workload.name}: no plan fits; the nearest, {nearest}, is short by "
            f"{search.short[nearest]}. Raise the device or host memory, use more ranks, or "
            f"shorten the sequence"
        )
    rejected = [f"{layout}: short of {short}" for layout, short in search.short.items()]
    if len(rejected) > REJECTED:
        rejected[REJECTED:] = [f"and {len(rejected) - REJECTED} more layouts"]
    return replace(best[0], reasons=explain(*best, search), rejected=tuple(rejected))


def _is_hopeless(layout: Layout, search: Search, choose: Choose) -> bool:
    """Whether the finest cut of this layout's family, which needs least memory, does not fit."""
    family = [one for one in search.layouts if one.family == layout.family]
    finest = max(family, key=lambda one: len(one.lengths))
    try:
        for stage in {0, finest.pipeline_parallel - 1}:
            problem = stage_problem(finest, stage)
            problem.require_room()
            problem.require_fit(problem.memory(choose(problem)))
    except Short as short:
        search.short[finest] = short
        return True
    return False


def stage_problem(layout: Layout, stage: int) -> StageProblem:
    """What one stage of a layout has to decide."""
    shapes = layout.shapes[stage :: layout.pipeline_parallel]
    return StageProblem(
        shapes=shapes,
        computes=layout.computes(stage),
        kv_sets=layout.kv_sets,
        starts=layout.starts,
        lengths=layout.lengths,
        messages_ahead=layout.messages_ahead,
        profile=layout.profile,
        costs=tuple(layout.part_costs(shape) for shape in shapes),
        device_limit_bytes=layout.workload.device_memory_bytes,
        host_limit_bytes=layout.workload.host_memory_bytes,
        kv_block_tokens=layout.kv_block_tokens,
    )


def plan_of(layout: Layout, choose: Choose) -> Plan:
    """Fates for every stage, then the simulation. Raises Short."""
    chosen: dict[tuple[object, ...], StageFates] = {}
    stages: list[StagePlan] = []
    for stage in range(layout.pipeline_parallel):
        problem = stage_problem(layout, stage)
        mixed = stage if layout.kv_sets > 1 else 0  # how far a stage runs ahead differs
        alike = (mixed, *((len(s.layers), s.first, s.head) for s in problem.shapes))
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
        kv_block_tokens=layout.kv_block_tokens,
        kv_sets=layout.kv_sets,
        head_alone=layout.head_alone,
        lengths_tokens=layout.lengths,
        stages=tuple(stages),
        fetch_ahead=1 if profile.overlapped_copies else 0,
        makespan_seconds=0.0,
        bubble_share=0.0,
        reasons=(),
        rejected=(),
    )
    simulation = simulate_plan(draft, profile)
    return replace(
        draft,
        makespan_seconds=simulation.makespan / 1e9,
        bubble_share=simulation.bubble_share,
    )

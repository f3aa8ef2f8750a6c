"""Plan + profile -> simulation: what a plan would take, by the schedule that would run it."""

from __future__ import annotations

from sppo.costs import Profile, copy_ns, subsequence_cost
from sppo.memory import PartShape
from sppo.plan import PartPlan, Plan
from sppo.schedule import build_schedule
from sppo.simulate import PartCosts, Simulation, simulate


def plan_costs(plan: Plan, profile: Profile) -> list[PartCosts]:
    """The simulator's costs of a plan on a profile, one entry per part; times in nanoseconds."""
    return [_part_costs(plan, part, profile) for part in plan.parts]


def _part_costs(plan: Plan, part: PartPlan, profile: Profile) -> PartCosts:
    shape = PartShape(model=plan.model, layers=part.layer_range, element_bytes=plan.element_bytes)
    computes = [
        subsequence_cost(
            plan.model,
            profile,
            layers=len(shape.layers),
            head=shape.last,
            start=start,
            tokens=tokens,
        )
        for start, tokens in zip(plan.starts_tokens, plan.lengths_tokens, strict=True)
    ]
    moved = []
    for tokens, units in zip(plan.lengths_tokens, part.offload_units, strict=True):
        wanted = set(units)
        moved.append(sum(size for key, size in shape.candidates(tokens) if key in wanted))
    messages = [tokens * plan.model.hidden * plan.element_bytes for tokens in plan.lengths_tokens]
    link = profile.p2p_bytes_per_second
    return PartCosts(
        forward=[cost.forward_ns for cost in computes],
        backward=[cost.backward_ns for cost in computes],
        kept_bytes=[shape.kept_bytes(tokens) for tokens in plan.lengths_tokens],
        offloaded_bytes=moved,
        d2h=[copy_ns(size, profile.d2h_bytes_per_second) for size in moved],
        h2d=[copy_ns(size, profile.h2d_bytes_per_second) for size in moved],
        message_bytes=messages,
        message=[copy_ns(size, link, profile.p2p_latency_seconds) for size in messages],
        overlapped_copies=profile.overlapped_copies,
    )


def simulate_plan(plan: Plan, profile: Profile) -> Simulation:
    """The simulated step (forward and backward) of a plan; its schedule need not be checked."""
    return simulate(build_schedule(plan), plan_costs(plan, profile))

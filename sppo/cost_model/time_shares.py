"""Where a plan's simulated step goes: kernels at their best rates, and what takes the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from sppo.config.hardware import Hardware, Rates
from sppo.cost_model.kernel_limit import best_rate
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import plan_costs
from sppo.plan.plan import Plan
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import PartCosts
from sppo.schedule.instructions import Op
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Simulation

FREE = 1e30
"""A rate at which nothing takes time."""


@dataclass(frozen=True, kw_only=True)
class TimeShares:
    """Shares of all stages' time in a simulated step; their sum is 1.

    kernels: the kernel limit (`kernel_limit.py`). short_kernels: lower rates of short subsequences,
    and the overhead of layers. recomputation: of saved tensors. collectives: inside a stage, of
    sharded weights, and between MSP slices. copies: waits for the host tier, copies that take
    compute's time, and exposed copies of hosted K and V. messages: by which the step is longer than
    with free messages between stages. idle: ends of the pipeline, waits for other stages and
    slices. other: zeros of dK and dV, adding helpers' gradients. reduction: sums over copies of
    weights.
    """

    kernels: float
    short_kernels: float
    recomputation: float
    collectives: float
    copies: float
    messages: float
    idle: float
    other: float
    reduction: float

    @property
    def rows(self) -> list[tuple[str, float]]:
        """All shares by name, in their order."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


def time_shares(plan: Plan, profile: Hardware) -> TimeShares:
    """The shares of a plan that was simulated on this profile."""
    total_ns = plan.pipeline_parallel * plan.makespan_seconds * 1e9
    without = [
        profile,
        silent := replace(
            profile,
            collective_bytes_per_second=FREE,
            internode_bytes_per_second=FREE,
            p2p_bytes_per_second=FREE,
        ),
        copied := replace(silent, h2d_bytes_per_second=FREE, d2h_bytes_per_second=FREE),
    ]
    computes = [_compute_ns(plan, each) for each in without]
    exchanged = _exchanged_ns(plan, profile)
    saved = _without_recomputation(plan)
    computes += [_compute_ns(saved, each) for each in (copied, _at_best(copied))]
    step = _with_free_messages(plan, profile)
    own_copies = sum(
        event.end - event.start
        for event in step.events
        if event.lane == "compute" and event.instruction.op in (Op.OFFLOAD, Op.RELOAD)
    )
    reduced_ns = plan.pipeline_parallel * plan.reduction_seconds * 1e9
    messages_ns = total_ns - reduced_ns - plan.pipeline_parallel * step.makespan
    parts = {
        "kernels": computes[4],
        "short_kernels": computes[3] - computes[4],
        "recomputation": computes[2] - computes[3],
        "collectives": computes[0] - computes[1] + exchanged,
        "copies": computes[1] - computes[2] + sum(step.exposed_copies),
        "messages": messages_ns,
        "other": sum(step.busy) - computes[0] - exchanged - own_copies,
        "reduction": reduced_ns,
    }
    shares = {name: value / total_ns for name, value in parts.items()}
    return TimeShares(idle=1 - sum(shares.values()), **shares)


def _compute_ns(plan: Plan, profile: Hardware) -> int:
    """All forwards and backwards of a step, of all stages; without exchanges of slices."""
    costs, slices = plan_costs(plan, profile), plan_slice_costs(plan, profile)
    total = sum(time for (op, *_), time in slices.compute.items() if op is not Op.ADD_DW)
    total -= sum(sent.time for sent in slices.exchanged.values())
    for part, cost in enumerate(costs):
        for index in range(plan.subsequences):
            if not plan.is_split(part, index):
                total += cost.forward[index] + cost.backward[index]
    return plan.sequences * total


def _exchanged_ns(plan: Plan, profile: Hardware) -> int:
    """K and V, dK and dV that MSP slices exchange."""
    slices = plan_slice_costs(plan, profile)
    return plan.sequences * sum(sent.time for sent in slices.exchanged.values())


def _without_recomputation(plan: Plan) -> Plan:
    """The same plan with every saved tensor kept, whatever memory that takes."""
    stages = []
    for stage in plan.stages:
        parts = [replace(part, recompute_units=((),) * plan.subsequences) for part in stage.parts]
        stages.append(replace(stage, parts=tuple(parts)))
    splits = tuple(replace(split, recompute_units=()) for split in plan.msp_splits)
    return replace(plan, stages=tuple(stages), msp_splits=splits)


def _at_best(profile: Hardware) -> Hardware:
    """The best rate of every kind of kernel at every length, without overhead of layers."""
    kinds = [field.name for field in fields(Rates) if field.name != "tokens"]
    row = Rates(tokens=1, **{kind: best_rate(profile, kind) for kind in kinds})
    return replace(profile, rates=(row,), layer_overhead_seconds=0.0)


def _with_free_messages(plan: Plan, profile: Hardware) -> Simulation:
    costs: Sequence[PartCosts] = [
        replace(cost, message=[0] * plan.subsequences) for cost in plan_costs(plan, profile)
    ]
    slices = plan_slice_costs(plan, profile)
    sent = {message: replace(each, time=0) for message, each in slices.sent.items()}
    return simulate(build_schedule(plan), costs, replace(slices, sent=sent))

"""Plan + profile -> simulation: what a plan would take, by the schedule that would run it."""

from __future__ import annotations

from sppo.config.hardware import Hardware
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.times import (
    copy_ns,
    kv_copied_bytes,
    kv_copy_seconds,
    recompute_ns,
    stage_link,
    subsequence_cost,
)
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.plan import Plan, part_shape
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import PartCosts
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Simulation


def plan_costs(plan: Plan, profile: Hardware) -> list[PartCosts]:
    """The simulator's costs of a plan on a profile, one entry per part; times in nanoseconds."""
    return [_part_costs(plan, number, profile) for number in range(len(plan.parts))]


def _part_costs(plan: Plan, number: int, profile: Hardware) -> PartCosts:
    shards, part = plan.sequence_parallel, plan.parts[number]
    shape = part_shape(plan, number)
    slicing = plan.layout.slicing
    owner = number % plan.pipeline_parallel
    kept_tokens = [slicing.tokens_of(number, i, owner) for i in range(plan.subsequences)]
    forward, backward = [], []
    rows = zip(plan.starts_tokens, plan.lengths_tokens, part.recompute_units, strict=True)
    for start, tokens, dropped in rows:
        cost = subsequence_cost(
            plan.model,
            profile,
            layers=len(shape.layers),
            head=shape.head,
            start=start,
            tokens=tokens,
            shards=shards,
        )
        again = recompute_ns(
            plan.model, profile, dropped, start=start, tokens=tokens, shards=shards
        )
        kv_forward, kv_backward = 0.0, 0.0
        if plan.kv_block_tokens:
            kv_forward, kv_backward = kv_copy_seconds(
                plan.model,
                profile,
                start=start,
                tokens=tokens,
                last=start + tokens == plan.sequence_tokens,
                shards=shards,
            )
        layers = len(shape.layers)
        forward.append(cost.forward_ns + round(layers * kv_forward * 1e9))
        extra = again + round(kv_backward * 1e9)
        backward.append(cost.backward_ns + layers * extra)
    moved = part_offloaded_bytes(plan, number)
    hidden = plan.model.hidden * plan.element_bytes
    messages = [-(-tokens * hidden // shards) for tokens in plan.lengths_tokens]
    zeroed = 0  # in the host tier dK and dV begin with what the first backward sends
    if not plan.kv_block_tokens:
        zeroed = shape.kv_bytes(plan.sequence_tokens, gradient_element_bytes(plan.element_bytes))
    link, latency = stage_link(profile, shards * plan.pipeline_parallel)
    return PartCosts(
        forward=forward,
        backward=backward,
        clear=round(zeroed / profile.memory_bytes_per_second * 1e9),
        kept_bytes=[
            shape.kept_bytes(tokens, dropped)
            for tokens, dropped in zip(kept_tokens, part.recompute_units, strict=True)
        ],
        offloaded_bytes=moved,
        d2h=[copy_ns(size, profile.d2h_bytes_per_second) for size in moved],
        h2d=[copy_ns(size, profile.h2d_bytes_per_second) for size in moved],
        message_bytes=messages,
        message=[copy_ns(size, link, latency) for size in messages],
        overlapped_copies=profile.overlapped_copies,
    )


def part_offloaded_bytes(plan: Plan, number: int) -> list[int]:
    """Activations of a part that one rank of its stage sends to the host, by subsequence."""
    shape, slicing = part_shape(plan, number), plan.layout.slicing
    owner = number % plan.pipeline_parallel
    moved = []
    for index, units in enumerate(plan.parts[number].offload_units):
        tokens = slicing.tokens_of(number, index, owner)
        moved.append(
            sum(shape.saved_tensor_bytes(shape.saved_tensors[name], tokens) for _, name in units)
        )
    return moved


def stage_offloaded_bytes(plan: Plan, stage: int) -> int:
    """The same of a whole stage and step; as many come back."""
    parts = range(stage, len(plan.parts), plan.pipeline_parallel)
    return plan.sequences * sum(sum(part_offloaded_bytes(plan, number)) for number in parts)


def stage_kv_copied_bytes(plan: Plan, stage: int) -> int:
    """Bytes of K, V, dK and dV that a stage moves between host and device in a step."""
    if not plan.kv_block_tokens:
        return 0
    total = 0
    units = block_of(plan.model).saved_tensors_by_name
    for part in plan.stages[stage].parts:
        rows = zip(plan.starts_tokens, plan.lengths_tokens, part.recompute_units, strict=True)
        for start, tokens, dropped in rows:
            total += len(part.layer_range) * kv_copied_bytes(
                plan.model,
                plan.element_bytes,
                start=start,
                tokens=tokens,
                last=start + tokens == plan.sequence_tokens,
                again=any(units[name].recipe == "mixer" for name in dropped),
            )
    return plan.sequences * total // plan.sequence_parallel


def simulate_plan(plan: Plan, profile: Hardware) -> Simulation:
    """The simulated step (forward and backward) of a plan; its schedule need not be checked."""
    costs = plan_costs(plan, profile)
    return simulate(build_schedule(plan), costs, plan_slice_costs(plan, profile))

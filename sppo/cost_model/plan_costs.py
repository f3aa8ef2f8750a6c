"""Plan + profile -> simulation of the plan by the schedule that would run it."""

from __future__ import annotations

from sppo.config.hardware import Hardware
from sppo.cost_model.hosted_kv import KvSpan, kv_copy_seconds
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.times import copy_ns, part_cost, stage_link
from sppo.plan.blocks import gradient_element_bytes
from sppo.plan.plan import Plan, part_shape
from sppo.schedule.build import build_schedule
from sppo.schedule.cost_table import PartCosts
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Simulation


def plan_costs(plan: Plan, profile: Hardware) -> list[PartCosts]:
    """The simulator's costs of a plan on a profile, one entry per chunk; times in nanoseconds."""
    return [_part_costs(plan, number, profile) for number in range(len(plan.parts))]


def _part_costs(plan: Plan, number: int, profile: Hardware) -> PartCosts:
    shards, recomputed = plan.sequence_parallel, plan.parts[number].recompute_units
    shape = part_shape(plan, number)
    layers = len(shape.layers)
    forward, backward, saved = [], [], []
    rows = zip(plan.starts_tokens, plan.lengths_tokens, recomputed, strict=True)
    for index, (start, tokens, names) in enumerate(rows):
        cost = part_cost(shape, profile, names, start=start, tokens=tokens)
        kv_forward, kv_backward = 0.0, 0.0
        if plan.kv_block_tokens:
            span = KvSpan(start=start, tokens=tokens, adds_first=index == plan.subsequences - 1)
            kv_forward, kv_backward = kv_copy_seconds(plan.model, profile, span, shards=shards)
        forward.append(cost.forward_ns + round(layers * kv_forward * 1e9))
        backward.append(cost.backward_ns + layers * round(kv_backward * 1e9))
        saved.append(shape.kept_bytes(_own_tokens(plan, number, index), names))
    offloaded = part_offloaded_bytes(plan, number)
    hidden = plan.model.hidden * plan.element_bytes
    messages = [-(-tokens * hidden // shards) for tokens in plan.lengths_tokens]
    zeroed = 0  # in the host tier dK and dV begin with what the first backward offloads
    if not plan.kv_block_tokens:
        zeroed = shape.kv_bytes(plan.sequence_tokens, gradient_element_bytes(plan.element_bytes))
    link, latency = stage_link(profile, shards * plan.pipeline_parallel)
    return PartCosts(
        forward=forward,
        backward=backward,
        clear=round(zeroed / profile.memory_bytes_per_second * 1e9),
        kept_bytes=saved,
        offloaded_bytes=offloaded,
        d2h=[copy_ns(size, profile.d2h_bytes_per_second) for size in offloaded],
        h2d=[copy_ns(size, profile.h2d_bytes_per_second) for size in offloaded],
        message_bytes=messages,
        message=[copy_ns(size, link, latency) for size in messages],
        overlapped_copies=profile.overlapped_copies,
    )


def _own_tokens(plan: Plan, part: int, index: int) -> int:
    """Tokens of a subsequence that the owner of a model chunk computes."""
    return plan.tokens_of(part, index, part % plan.pipeline_parallel)


def part_offloaded_bytes(plan: Plan, number: int) -> list[int]:
    """Bytes of saved tensors of a model chunk that one rank offloads, by subsequence."""
    shape = part_shape(plan, number)
    sizes = []
    for index, keys in enumerate(plan.parts[number].offload_units):
        tokens = _own_tokens(plan, number, index)
        tensors = [shape.saved_tensors[name] for _, name in keys]
        sizes.append(sum(shape.saved_tensor_bytes(tensor, tokens) for tensor in tensors))
    return sizes


def stage_offloaded_bytes(plan: Plan, stage: int) -> int:
    """Bytes of saved tensors that one rank of a stage offloads in a step, and reloads."""
    parts = range(stage, len(plan.parts), plan.pipeline_parallel)
    return plan.sequences * sum(sum(part_offloaded_bytes(plan, number)) for number in parts)


def simulate_plan(plan: Plan, profile: Hardware) -> Simulation:
    """The simulated step (forward and backward) of a plan; its schedule need not be checked."""
    costs = plan_costs(plan, profile)
    return simulate(build_schedule(plan), costs, plan_slice_costs(plan, profile))

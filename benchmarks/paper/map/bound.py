"""A lower bound of a peer's step and of its memory, by formula: label `computed`.

The layouts are those of the peer's grid that its library takes. Whatever a step of a layout also
does, it computes the model's FLOPs at the rates of the profile, waits for its pipeline, and sends
what its kind of parallelism must send. It holds its model state, the inputs of its blocks, and the
tensors of one attention's backward. Attention whose output does not fit is computed a second time.
Everything else is left out: dense recomputation, latencies, the optimizer, fragments, and the
logits, because a loss can be computed in tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from baselines import registry
from baselines.protocol import Unavailable
from benchmarks.emulation.depth.bound import least_seconds
from benchmarks.paper.map.degrees import PeerLayout, layout_of
from benchmarks.paper.map.least_traffic import message_floor_seconds
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops
from sppo.plan.weights import parameter_count

STATE_BYTES = 12
"""Of a weight, sharded over all ranks: float32 weight and AdamW's two moments."""

WIDE_TENSORS, KV_TENSORS = 3, 4
"""Of one attention's backward: Q and the gradients of Q and of the output; K, V and their
gradients. The output itself is counted by `saved_share`, or is computed a second time."""

ANY_HARDWARE = "a100-80g"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The least step of a peer's layouts, by the rates of a profile.

    seconds: messages that must be sent take their time, one after the other. Emulated time has the
    same rule, so no exposed step is shorter; a step that hides messages may be. seconds_if_hidden:
    messages take none, in the layout that is the fastest then. No step is shorter.
    attention_again: the share of attention's forwards that do not fit and run twice.
    """

    system: str
    degrees: str
    seconds: float
    seconds_if_hidden: float
    attention_again: float


@dataclass(frozen=True, kw_only=True)
class NoLayout:
    """A peer that cannot run here, and why."""

    system: str
    reason: str


def bound_of(system: str, workload: Workload, profile: Hardware) -> Bound | NoLayout:
    """The least bound over the layouts of the system's grid that may fit."""
    layouts, refusal = layouts_of(system, workload)
    if not layouts:
        return NoLayout(system=system, reason=refusal)
    bounds = [_bound(system, workload, layout, profile) for layout in layouts]
    able = [bound for bound in bounds if bound is not None]
    if not able:
        return NoLayout(system=system, reason="out of device memory, even by the least it can hold")
    least = min(able, key=lambda bound: bound.seconds)
    hidden = min(bound.seconds_if_hidden for bound in able)
    return replace(least, seconds_if_hidden=hidden)


def layouts_of(system: str, workload: Workload) -> tuple[tuple[PeerLayout, ...], str]:
    """The degrees of the system's grid that its library takes; without any its refusal."""
    cluster = replace(workload.cluster, hardware=ANY_HARDWARE)
    return _layouts_of(
        system,
        replace(
            workload,
            name="",
            cluster=cluster,
            device_memory_bytes=None,
            host_memory_bytes=None,
        ),
    )


@lru_cache(maxsize=256)
def _layouts_of(system: str, workload: Workload) -> tuple[tuple[PeerLayout, ...], str]:
    """The same for all hardware and memory, on which no grid depends."""
    adapter, refusal = registry.load(system), "the grid has no layout for these ranks"
    layouts: dict[PeerLayout, None] = {}
    refused: set[PeerLayout] = set()
    for settings in adapter.grid(workload):
        layout = layout_of(settings)
        if layout in layouts or layout in refused:
            continue
        try:
            adapter.check(workload, settings)
        except Unavailable as error:
            refusal = str(error)
            refused.add(layout)
        else:
            layouts[layout] = None
    return tuple(layouts), refusal


def _bound(system: str, workload: Workload, layout: PeerLayout, profile: Hardware) -> Bound | None:
    """None where the layout cannot fit."""
    saved = saved_share(system, workload, layout)
    if saved is None:
        return None
    again = 1 - saved
    compute = least_seconds(workload, layout, profile)
    hidden = compute + again * _attention_seconds(workload, layout, profile)
    return Bound(
        system=system,
        degrees=str(layout),
        seconds=hidden + message_floor_seconds(workload, layout, profile),
        seconds_if_hidden=hidden,
        attention_again=again,
    )


def _attention_seconds(workload: Workload, layout: PeerLayout, profile: Hardware) -> float:
    """One forward of all attention, without idle time."""
    tokens = workload.sequence_tokens // layout.ranks_of_a_stage
    flops = step_flops(workload).attention_causal / 3 / workload.cluster.ranks
    return flops / profile.rate(tokens, "attention_forward")


def saved_share(system: str, workload: Workload, layout: PeerLayout) -> float | None:
    """The share of a stage's layers whose attention output may stay on the device, 0 to 1.

    None where even full recomputation needs more than the device has.
    """
    limit_bytes = workload.device_memory_bytes
    if limit_bytes is None:
        return 1.0
    left_bytes = limit_bytes - least_bytes(system, workload, layout)
    if left_bytes < 0:
        return None
    model, tokens = workload.model, workload.sequence_tokens // layout.ranks_of_a_stage
    layers = model.layers / layout.pipeline_parallel
    log_sum_exp_bytes = 4 * model.heads
    output_bytes = tokens * (model.hidden * workload.element_bytes + log_sum_exp_bytes)
    return min(1.0, left_bytes / (layers * output_bytes))


def least_bytes(system: str, workload: Workload, layout: PeerLayout) -> int:
    """Device bytes of a rank with full recomputation, of the least that any step holds.

    DeepSpeed can host the inputs of blocks; the other two hold the inputs.
    """
    model, tokens = workload.model, workload.sequence_tokens // layout.ranks_of_a_stage
    weights = parameter_count(model)
    state = STATE_BYTES * weights // workload.cluster.ranks
    if system == "megatron":  # whole weights of a TP rank's stage
        state += workload.element_bytes * weights // layout.weight_shards
    column_bytes = tokens * workload.element_bytes
    backward = (WIDE_TENSORS * model.hidden + KV_TENSORS * model.kv_width) * column_bytes
    if system == "deepspeed":
        return state + backward
    inputs = model.layers // layout.pipeline_parallel * model.hidden * column_bytes
    return state + inputs + backward

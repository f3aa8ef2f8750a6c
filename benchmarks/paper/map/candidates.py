"""A few settings of a peer's grid, those that recompute the least first.

A whole grid takes minutes to search (`places.SEARCHED`). Elsewhere the first of these that fits is
emulated. They are a small part of a grid: of Megatron-Core only full recomputation, of DeepSpeed
only ZeRO-3, of both only whole models checkpointed. Other settings of a grid may be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from baselines import registry
from baselines.protocol import Unavailable, check_emulated
from sppo.config.workload import Workload

NATIVE = ("save-messages", "save-attention", "full")
"""Kinds of checkpointing, in the order of the grid."""

DEEPSPEED = ("split", "save-attention", "blocks")


def candidates(system: str, workload: Workload) -> list[Any]:
    """Points of the grid that the library takes and emulation can run; may be empty."""
    adapter, is_chosen = registry.load(system), _CHOSEN[system]
    points = [point for point in adapter.grid(workload) if is_chosen(point, workload)]
    return [point for point in points if _can_run(system, workload, point)]


def _can_run(system: str, workload: Workload, settings: Any) -> bool:
    try:
        check_emulated(registry.load(system), workload, settings)
    except Unavailable:
        return False
    return True


def _native(point: Any, _: Workload) -> bool:
    whole = point.checkpointed_layers is None and point.checkpointing in NATIVE
    return bool(whole and point.tensor_parallel == 1 and point.reshard_after_forward)


def _deepspeed(point: Any, _: Workload) -> bool:
    whole = point.checkpointed_layers is None and point.checkpointing in DEEPSPEED
    plain = not point.tiled_mlp and point.overlap_comm is None and not point.host_hidden_states
    return bool(whole and plain and point.tiled_loss and point.zero_stage == 3)


def _megatron(point: Any, workload: Workload) -> bool:
    in_a_node = point.tensor_parallel == workload.cluster.ranks_per_node
    return bool(in_a_node and point.pipeline_parallel == 1 and point.recompute == "full")


_CHOSEN: Mapping[str, Callable[[Any, Workload], bool]] = {
    "native": _native,
    "deepspeed": _deepspeed,
    "megatron": _megatron,
}

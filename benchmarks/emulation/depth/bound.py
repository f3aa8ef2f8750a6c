"""The least simulated time of a layout, before any emulation.

Every system computes at least the workload's FLOPs, at the rates by which `emulation.time` charges
them. Recomputation, messages and the optimizer only add. No torch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.emulation.depth.cuts import pipeline_stages, virtual_stages
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops

INNER = ("tensor_parallel", "context_parallel")
"""The degrees that share a stage and a sequence, in a system with tensor or pipeline parallelism.
Elsewhere `sequence_parallel` is a degree too."""


def least_seconds(workload: Workload, settings: Any, profile: Hardware) -> float:
    """Seconds below which no step of these settings can be, whatever is recomputed.

    A pipeline of P stages and V chunks a stage takes M + (P - 1) / V turns for M micro-batches.
    """
    ranks, stages = workload.cluster.ranks, pipeline_stages(settings)
    inner = _inner_ranks(settings)
    flops = step_flops(workload)
    rate = partial(profile.rate, workload.sequence_tokens // inner)
    dense, attention = flops.dense / 3 / ranks, flops.attention_causal / 3 / ranks
    forward = dense / rate("dense_forward") + attention / rate("attention_forward")
    backward = 2 * (dense / rate("dense_backward") + attention / rate("attention_backward"))
    micro_batches = workload.sequences_per_step * inner * stages / ranks
    turns = 1 + (stages - 1) / virtual_stages(settings) / micro_batches
    return (forward + backward) * turns


def _inner_ranks(settings: Any) -> int:
    """Ranks that share a stage and a sequence."""
    inner = 1
    for name in INNER:
        inner *= getattr(settings, name, 1)
    degree = getattr(settings, "sequence_parallel", 1)
    return inner if isinstance(degree, bool) else inner * degree

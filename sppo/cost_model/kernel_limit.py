"""The kernel limit: every kernel of a step runs at its best rate, and nothing else takes time."""

from __future__ import annotations

from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.flops import head_flops_per_token, step_flops


def kernel_limit_seconds(workload: Workload, profile: Hardware) -> float:
    """Seconds of such a step on all ranks of the workload; no recomputation."""
    flops = step_flops(workload)
    head = 3 * workload.tokens_per_step * head_flops_per_token(workload.model)
    seconds = head / best_rate(profile, "dense_forward")
    for kind, amount in (("dense", flops.dense - head), ("attention", flops.attention_causal)):
        seconds += amount / 3 / best_rate(profile, f"{kind}_forward")
        seconds += amount * 2 / 3 / best_rate(profile, f"{kind}_backward")
    return seconds / workload.cluster.ranks


def best_rate(profile: Hardware, kind: str) -> float:
    """FLOP/s of a kind of kernel at the length at which the profile is fastest."""
    return max(float(getattr(row, kind)) for row in profile.rates)

"""The profile of the paper's testbed, FLOP utilisation under it, and the most that it allows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from benchmarks.paper import reported
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.workload import Workload
from sppo.cost_model.flops import step_flops
from sppo.cost_model.kernel_limit import kernel_limit_seconds

BILLION = 10**9

FULL_RATE_TOKENS = 8192
"""In a what-if, kernels of every length are as fast as those of so many tokens a GPU."""


@cache
def testbed() -> Hardware:
    """The profile that simulated times of the paper's points come from."""
    return load_hardware(reported.ABLATION_HARDWARE)


def source_words(*more: str) -> str:
    """ "simulated, profile a100-80g (assumed)": the source of a simulated point."""
    profile = testbed()
    return ", ".join((f"profile {profile.name} ({profile.kind})", *more))


def full_rates(profile: Hardware) -> Hardware:
    """A what-if: the rates of FULL_RATE_TOKENS at every shorter length."""
    rows = tuple(row for row in profile.rates if row.tokens >= FULL_RATE_TOKENS)
    return replace(profile, rates=rows)


def mfu(workload: Workload, step_seconds: float, profile: Hardware | None = None) -> float:
    """Causal FLOPs of a step over what all ranks could do in `step_seconds` at their peak.

    profile: the testbed's if not given.
    """
    peak = (profile or testbed()).peak_flops_per_second * workload.cluster.ranks
    return step_flops(workload).causal / (step_seconds * peak)


def kernel_limit(workload: Workload, profile: Hardware | None = None) -> float:
    """The MFU if every product ran at the profile's best rate and nothing else took time."""
    profile = profile or testbed()
    return mfu(workload, kernel_limit_seconds(workload, profile), profile)


def kernel_limit_share(
    workload: Workload, step_seconds: float, profile: Hardware | None = None
) -> float:
    """The MFU of a step over `kernel_limit`; above 1 the step would beat the profile's kernels."""
    return mfu(workload, step_seconds, profile) / kernel_limit(workload, profile)


def hours_per_billion_tokens(workload: Workload, step_seconds: float) -> float:
    """Hours of training on 1e9 tokens in such steps."""
    return step_seconds * BILLION / workload.tokens_per_step / 3600

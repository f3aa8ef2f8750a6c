"""From an emulated step's counts to a simulated time. The rules: docs/emulation.md, "Time".

Pure: no torch, no library. Counts become time by a hardware profile and the system's schedule only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.emulation.result import RoleReport, SimulatedTime
from benchmarks.emulation.time.costs import by_link, copy_seconds, optimizer_seconds
from benchmarks.emulation.time.systems import SYSTEMS, CountedStep
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model import flops
from sppo.cost_model.kernel_limit import kernel_limit_seconds

COMMON = (
    "compute: counted FLOPs through the profile's rates, attention causal; what is recomputed runs "
    "at forward rates; the loss's and the embedding's own memory traffic is not charged",
    "optimizer: weights, gradients and its state read and written once at the memory's rate",
    "a collective: bytes that a rank must send over its link, and one latency a call",
)


def simulated_time(
    system: str,
    settings: Mapping[str, Any],
    workload: Workload,
    profile: Hardware,
    reports: Sequence[RoleReport],
) -> SimulatedTime | None:
    """The time of an emulated step; None where a rank was not counted or the system is unknown.

    `settings` are the adapter's, as plain values. MFU: docs/emulation.md, "Output".
    """
    counted = [(report, report.counts) for report in reports if report.counts is not None]
    ranks = workload.cluster.ranks
    complete = len(counted) == len(reports) and sum(report.ranks for report in reports) == ranks
    if not complete or system not in SYSTEMS:
        return None
    time_of, assumptions = SYSTEMS[system]
    inputs = CountedStep(workload=workload, profile=profile, settings=settings, counted=counted)
    step = time_of(inputs)
    busiest = max(step.ranks, key=lambda rank: rank.busy)
    least = flops.step_flops(workload).causal / (ranks * profile.peak_flops_per_second)
    tokens_per_second = workload.tokens_per_step / step.seconds
    busy_share = sum(rank.busy for rank in step.ranks) / (len(step.ranks) * step.seconds)
    return SimulatedTime(
        profile=profile.name,
        profile_kind=profile.kind,
        role=busiest.name,
        step_seconds=step.seconds,
        step_seconds_if_hidden=step.seconds_if_hidden,
        compute_seconds=busiest.compute,
        optimizer_seconds=optimizer_seconds(busiest.counts, profile),
        communication_seconds=by_link(busiest.counts.communication, profile, workload.cluster),
        copy_seconds=copy_seconds(busiest.counts, profile),
        idle_share=max(0.0, 1 - busy_share),
        tokens_per_second=tokens_per_second,
        tokens_per_second_per_gpu=tokens_per_second / ranks,
        mfu=least / step.seconds,
        mfu_if_hidden=least / step.seconds_if_hidden,
        kernel_limit_share=kernel_limit_seconds(workload, profile) / step.seconds,
        assumptions=[*COMMON, *assumptions],
    )

"""From an emulated step's counts to a simulated time; by what rules: docs/emulation.md, "Time".

Pure: no torch, no library. Counts become time by a hardware profile and the system's schedule only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.emulated_costs import by_link, optimizer_seconds
from benchmarks.emulated_steps import SYSTEMS, Emulated, Step
from sppo import costs
from sppo.profile import Profile
from sppo.workload import Workload

if TYPE_CHECKING:
    from benchmarks.emulation import RoleReport

LABEL = "simulated"
COMMON = (
    "compute: counted FLOPs through the profile's rates, attention causal; what is recomputed runs "
    "at forward rates; the loss's and the embedding's own memory traffic is not charged",
    "optimizer: weights, gradients and its state read and written once at the memory's rate",
    "a collective: bytes that a rank must send over its link, and one latency a call",
)


class SimulatedTime(msgspec.Struct, frozen=True, kw_only=True):
    """What the emulated step would take: simulated, and as good as the profile.

    `step_seconds`: messages hide only where the schedule hides them; `_if_hidden`: no message takes
    time. compute_, optimizer_ and communication_seconds (by link, hidden or not) are those of
    `role`, which works longest. idle_share: of all ranks' time in `step_seconds`. mfu: the
    workload's causal FLOPs, without recomputation, over all ranks' peak.
    """

    label: str = LABEL
    profile: str
    profile_kind: str
    role: str
    step_seconds: float
    step_seconds_if_hidden: float
    compute_seconds: float
    optimizer_seconds: float
    communication_seconds: dict[str, float]
    idle_share: float
    tokens_per_second: float
    tokens_per_second_per_gpu: float
    mfu: float
    mfu_if_hidden: float
    assumptions: list[str]


def simulated_time(
    system: str,
    settings: Mapping[str, Any],
    workload: Workload,
    profile: Profile,
    reports: Sequence[RoleReport],
) -> SimulatedTime | None:
    """The time of an emulated step, None where a rank was not counted or nobody knows the system.

    `settings` are the adapter's, as plain values.
    """
    counted = [(report, report.counts) for report in reports if report.counts is not None]
    ranks = workload.cluster.ranks
    everybody = len(counted) == len(reports) and sum(report.ranks for report in reports) == ranks
    if not everybody or system not in SYSTEMS:
        return None
    emulated = Emulated(workload=workload, profile=profile, settings=settings, counted=counted)
    return _record(emulated, SYSTEMS[system](emulated))


def _record(emulated: Emulated, step: Step) -> SimulatedTime:
    workload, profile = emulated.workload, emulated.profile
    busiest = max(step.ranks, key=lambda rank: rank.busy)
    ranks = workload.cluster.ranks
    least = costs.step_flops(workload).causal / (ranks * profile.peak_flops_per_second)
    tokens_per_second = workload.tokens_per_step / step.seconds
    worked = sum(rank.busy for rank in step.ranks) / (len(step.ranks) * step.seconds)
    return SimulatedTime(
        profile=profile.name,
        profile_kind=profile.kind,
        role=busiest.name,
        step_seconds=step.seconds,
        step_seconds_if_hidden=step.seconds_if_hidden,
        compute_seconds=busiest.compute,
        optimizer_seconds=optimizer_seconds(busiest.counts, profile),
        communication_seconds=by_link(busiest.counts.communication, profile, workload.cluster),
        idle_share=max(0.0, 1 - worked),
        tokens_per_second=tokens_per_second,
        tokens_per_second_per_gpu=tokens_per_second / ranks,
        mfu=least / step.seconds,
        mfu_if_hidden=least / step.seconds_if_hidden,
        assumptions=[*COMMON, *step.assumptions],
    )

"""What a step of each system takes: its counted work on a hardware profile, under its own schedule.

No torch, no library. By what rules: docs/emulation.md, "Time".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from baselines import registry
from benchmarks.emulation.time.costs import (
    ComputeSeconds,
    by_link,
    compute_seconds,
    message_seconds,
    optimizer_seconds,
    ranks_of,
)
from benchmarks.emulation.time.one_f_one_b import StageSeconds, stage_ends
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.plan_costs import simulate_plan
from sppo.plan.plan import Plan

if TYPE_CHECKING:
    from benchmarks.emulation.result import Counts, RoleReport

AT_ONCE = 1e30
"""Bytes a second of a link that takes no time."""

MEGATRON = (
    "Megatron's 1F1B order, every micro-batch alike; a message between stages holds its sender",
    "collectives of a layer hide under nothing: pessimistic for those in the backward of a "
    "column-parallel layer, which run beside a product",
    "gradients of replicas are summed behind the last backward: pessimistic, it begins before",
)
DEEPSPEED = (
    "the sequences of a rank one after the other",
    "nothing hides: neither Ulysses' all-to-all nor ZeRO's gathers, which DeepSpeed prefetches "
    "(`step_seconds_if_hidden`: all of them hide)",
)
SPPO = (
    "the engine's schedule of the solver's plan, simulated by the cost model and not from the "
    "counted FLOPs",
    "collectives of a layer hide under nothing; messages between stages and copies to the host "
    "hide under compute where the schedule lets them",
    "gradients of replicas are summed behind the last backward, under nothing",
)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One rank of those that work alike, in seconds of a step. `busy`: all but waiting."""

    name: str
    counts: Counts
    compute: float
    busy: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """A system's step; `ranks` stand for equal numbers of ranks."""

    seconds: float
    seconds_if_hidden: float
    ranks: Sequence[Rank]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """What was emulated, every rank of it counted."""

    workload: Workload
    profile: Hardware
    settings: Mapping[str, Any]
    counted: Sequence[tuple[RoleReport, Counts]]

    def messages(self, counts: Counts) -> float:
        """Seconds of all of a rank's messages."""
        cluster = self.workload.cluster
        return sum(by_link(counts.communication, self.profile, cluster).values())

    def optimizer(self) -> float:
        """Of the slowest rank: the norm keeps all of them together until then."""
        return max(optimizer_seconds(counts, self.profile) for _, counts in self.counted)


@dataclass(frozen=True, kw_only=True)
class _MegatronStage:
    """One stage: a micro-batch with and without messages, and what comes once a step."""

    exposed: StageSeconds
    hidden: StageSeconds
    reduction: float


def megatron(emulated: Emulated) -> Step:
    """Stages are blocks of ranks; a role of each is enough."""
    settings, ranks = emulated.settings, emulated.workload.cluster.ranks
    pipeline: int = settings["pipeline_parallel"]
    inner = settings["tensor_parallel"] * settings["context_parallel"]
    micro_batches = emulated.workload.sequences_per_step * inner * pipeline // ranks
    first: dict[int, tuple[RoleReport, Counts]] = {}
    for report, counts in emulated.counted:
        first.setdefault(report.rank * pipeline // ranks, (report, counts))
    shown = [first[stage] for stage in range(pipeline)]
    stages = [_megatron_stage(emulated, counts, micro_batches) for _, counts in shown]
    optimizer = emulated.optimizer()
    ends = stage_ends([stage.exposed for stage in stages], micro_batches)
    hidden_ends = stage_ends([stage.hidden for stage in stages], micro_batches)
    rows = zip(ends, stages, strict=True)
    return Step(
        seconds=max(end + stage.reduction for end, stage in rows) + optimizer,
        seconds_if_hidden=max(hidden_ends) + optimizer,
        ranks=[
            Rank(
                name=report.role,
                counts=counts,
                compute=micro_batches * stage.hidden.busy,
                busy=micro_batches * stage.exposed.busy
                + stage.reduction
                + optimizer_seconds(counts, emulated.profile),
            )
            for (report, counts), stage in zip(shown, stages, strict=True)
        ],
        assumptions=MEGATRON,
    )


def _megatron_stage(emulated: Emulated, counts: Counts, micro_batches: int) -> _MegatronStage:
    workload, settings = emulated.workload, emulated.settings
    inner = settings["tensor_parallel"] * settings["context_parallel"]
    layers = workload.model.layers // settings["pipeline_parallel"]
    work = compute_seconds(
        counts,
        emulated.profile,
        tokens=workload.sequence_tokens // inner,
        layer_passes=layers * micro_batches,
    )
    by_use = {"forward": 0.0, "backward": 0.0, "layers": 0.0, "once": 0.0}
    for item in counts.communication:
        use = _use(item.operation, ranks_of(item.group), inner)
        by_use[use] += message_seconds(item, emulated.profile, workload.cluster)
    forward = work.forward / micro_batches
    backward = (work.backward + work.again) / micro_batches
    collectives = by_use["layers"] / micro_batches
    share = _forward_share(work, sequence_parallel=settings["sequence_parallel"])
    return _MegatronStage(
        hidden=StageSeconds(forward=forward, backward=backward),
        exposed=StageSeconds(
            forward=forward + share * collectives,
            backward=backward + (1 - share) * collectives,
            send_forward=by_use["forward"] / micro_batches,
            send_backward=by_use["backward"] / micro_batches,
        ),
        reduction=by_use["once"],
    )


def _use(operation: str, ranks: Sequence[int], inner: int) -> str:
    """When a message of Megatron is sent: its ranks are ordered TP, CP, DP, PP, inner first."""
    if operation in ("send", "recv"):
        return "forward" if ranks[0] < ranks[-1] else "backward"
    return "layers" if ranks[0] // inner == ranks[-1] // inner else "once"


def _forward_share(work: ComputeSeconds, *, sequence_parallel: bool) -> float:
    """Of a layer's collectives, those in its first forward.

    A backward has as many, and half as many again with sequence parallelism, which gathers the
    inputs for the weights' gradients; what is made again has those of a forward.
    """
    return 1 / (1 + (1.5 if sequence_parallel else 1.0) + work.again_share)


def deepspeed(emulated: Emulated) -> Step:
    """All ranks alike; the slowest of those that were counted."""
    workload, settings, profile = emulated.workload, emulated.settings, emulated.profile
    degree: int = settings["sequence_parallel"]
    sequences = workload.sequences_per_step * degree // workload.cluster.ranks
    optimizer = emulated.optimizer()
    ranks = []
    for report, counts in emulated.counted:
        work = compute_seconds(
            counts,
            profile,
            tokens=workload.sequence_tokens // degree,
            layer_passes=workload.model.layers * sequences,
        )
        busy = work.total + emulated.messages(counts) + optimizer_seconds(counts, profile)
        ranks.append(Rank(name=report.role, counts=counts, compute=work.total, busy=busy))
    return Step(
        seconds=max(rank.busy for rank in ranks),
        seconds_if_hidden=max(rank.compute for rank in ranks) + optimizer,
        ranks=ranks,
        assumptions=DEEPSPEED,
    )


def sppo(emulated: Emulated) -> Step:
    """The plan that the adapter runs for these settings, from the same solver."""
    profile = emulated.profile
    adapter = registry.load_planner("sppo")
    options: Any = msgspec.convert(dict(emulated.settings), adapter.settings_type)
    plan = adapter.plan(emulated.workload, options)
    exposed = simulate_plan(plan, profile)
    hidden = simulate_plan(plan, without_messages(profile))
    optimizer = emulated.optimizer()
    after = plan.reduction_seconds + optimizer
    of_stage = _by_stage(plan, emulated)
    return Step(
        seconds=exposed.makespan / 1e9 + after,
        seconds_if_hidden=hidden.makespan / 1e9 + optimizer,
        ranks=[
            Rank(
                name=of_stage[stage][0].role,
                counts=of_stage[stage][1],
                compute=hidden.busy[stage] / 1e9,
                busy=exposed.busy[stage] / 1e9 + after,
            )
            for stage in range(plan.pipeline_parallel)
        ],
        assumptions=SPPO,
    )


def _by_stage(plan: Plan, emulated: Emulated) -> list[tuple[RoleReport, Counts]]:
    """For every stage the rank that stands for it: its own, or of the last stage before it.

    Ranks are ordered by replica, stage and shard.
    """
    first: dict[int, tuple[RoleReport, Counts]] = {}
    for report, counts in emulated.counted:
        stage = report.rank // plan.sequence_parallel % plan.pipeline_parallel
        first.setdefault(stage, (report, counts))
    return [
        first[max(known for known in first if known <= stage)]
        for stage in range(plan.pipeline_parallel)
    ]


def without_messages(profile: Hardware) -> Hardware:
    """The same hardware with links that take no time, copies to the host too where they overlap."""
    links = ["p2p_bytes_per_second", "collective_bytes_per_second"]
    if profile.overlapped_copies:
        links += ["d2h_bytes_per_second", "h2d_bytes_per_second"]
    latencies = ["p2p_latency_seconds"]
    if profile.internode_bytes_per_second is not None:
        links.append("internode_bytes_per_second")
        latencies.append("internode_latency_seconds")
    return replace(profile, **{**dict.fromkeys(links, AT_ONCE), **dict.fromkeys(latencies, 0.0)})  # type: ignore[arg-type]


SYSTEMS: dict[str, Callable[[Emulated], Step]] = {
    "megatron": megatron,
    "deepspeed": deepspeed,
    "sppo": sppo,
}

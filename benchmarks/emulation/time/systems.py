"""The time of each system's step: its counted work on a hardware profile, under its own schedule.

No torch, no library. The rules: docs/emulation.md, "Time".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import msgspec

from baselines import registry
from baselines.megatron.settings import microbatch_group
from benchmarks.emulation.result import Counts, RoleReport
from benchmarks.emulation.time.costs import (
    by_link,
    compute_seconds,
    copy_seconds,
    message_seconds,
    optimizer_seconds,
    ranks_of,
)
from benchmarks.emulation.time.megatron_collectives import Use, forward_share, use_of
from benchmarks.emulation.time.one_f_one_b import StageSeconds, stage_ends
from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.cost_model.plan_costs import simulate_plan

INSTANT = 1e30
"""Bytes a second of a link that takes no time."""

MEGATRON = (
    "Megatron's 1F1B order (interleaved where a rank has several model chunks), every micro-batch "
    "and every chunk alike; a message between stages holds its sender",
    "collectives of a layer hide under nothing: pessimistic for those in the backward of a "
    "column-parallel layer, which run beside a product",
    "gradients of replicas are summed behind the last backward: pessimistic, it begins before; "
    "with CP and one replica they are charged to the layers, whose ranks are the same",
)
DEEPSPEED = (
    "the sequences of a rank one after the other",
    "nothing hides: neither Ulysses' all-to-all nor ZeRO's gathers, which DeepSpeed prefetches "
    "(`step_seconds_if_hidden`: all of them hide)",
)
HOSTED = (
    *DEEPSPEED,
    "copies to and from the host tier hide under nothing (`step_seconds_if_hidden`: all of them "
    "hide where the profile's copies overlap)",
)
NATIVE = (
    "the sequences of a rank one after the other",
    "nothing hides: neither messages of TP, Ulysses and ring nor FSDP2's gathers, which FSDP2 "
    "prefetches (`step_seconds_if_hidden`: all of them hide)",
)
SPPO = (
    "the engine's schedule of the solver's plan, simulated by the cost model and not from the "
    "counted FLOPs",
    "collectives of a layer hide under nothing; messages between stages and copies to the host "
    "hide under compute where the schedule lets them",
    "gradients of replicas are summed behind the last backward, under nothing",
)


@dataclass(frozen=True, kw_only=True)
class RankTime:
    """One rank, for all ranks that work alike, in seconds of a step. `busy`: all but waiting."""

    name: str
    counts: Counts
    compute: float
    busy: float


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """A system's step in seconds; `ranks` stand for equal numbers of ranks."""

    seconds: float
    seconds_if_hidden: float
    ranks: Sequence[RankTime]


@dataclass(frozen=True, kw_only=True)
class CountedStep:
    """An emulated step whose ranks are all counted, and the profile that gives its time.

    settings: the adapter's, as plain values.
    """

    workload: Workload
    profile: Hardware
    settings: Mapping[str, Any]
    counted: Sequence[tuple[RoleReport, Counts]]

    def optimizer(self) -> float:
        """Seconds of the slowest rank: the gradient norm keeps all ranks together until then."""
        return max(optimizer_seconds(counts, self.profile) for _, counts in self.counted)

    def by_stage(self, stage_of: Callable[[int], int]) -> dict[int, tuple[RoleReport, Counts]]:
        """The first counted rank of each stage; `stage_of` is the stage of a rank."""
        first: dict[int, tuple[RoleReport, Counts]] = {}
        for report, counts in self.counted:
            first.setdefault(stage_of(report.rank), (report, counts))
        return first


def megatron(step: CountedStep) -> StepTime:
    """1F1B over the stages. Stages are blocks of ranks; one counted role of each is enough."""
    ranks, pipeline = step.workload.cluster.ranks, step.settings["pipeline_parallel"]
    chunks = _chunks(step)
    micro_batches = step.workload.sequences_per_step * _inner(step) * pipeline // ranks
    by_stage = step.by_stage(lambda rank: rank * pipeline // ranks)
    roles = [by_stage[stage] for stage in range(pipeline)]
    stages = [
        _megatron_stage(step, counts, micro_batches, stage)
        for stage, (_, counts) in enumerate(roles)
    ]
    exposed, hidden, reductions = zip(*stages, strict=True)
    group = microbatch_group(pipeline, micro_batches)
    ends = zip(stage_ends(exposed, micro_batches, chunks, group), reductions, strict=True)
    passes = micro_batches * chunks
    return StepTime(
        seconds=max(end + reduction for end, reduction in ends) + step.optimizer(),
        seconds_if_hidden=max(stage_ends(hidden, micro_batches, chunks, group)) + step.optimizer(),
        ranks=[
            RankTime(
                name=report.role,
                counts=counts,
                compute=passes * compute.busy,
                busy=passes * task.busy + reduction + optimizer_seconds(counts, step.profile),
            )
            for (report, counts), (task, compute, reduction) in zip(roles, stages, strict=True)
        ],
    )


def _inner(step: CountedStep) -> int:
    """Ranks that share a stage and a sequence."""
    return int(step.settings["tensor_parallel"] * step.settings["context_parallel"])


def _chunks(step: CountedStep) -> int:
    """Model chunks of a rank."""
    return step.settings.get("virtual_pipeline") or 1


def _megatron_stage(
    step: CountedStep, counts: Counts, micro_batches: int, stage: int
) -> tuple[StageSeconds, StageSeconds, float]:
    """A micro-batch on one chunk with messages, and without; seconds of what is sent once."""
    workload, settings = step.workload, step.settings
    stage_layers = workload.model.layers // settings["pipeline_parallel"]
    work = compute_seconds(
        counts,
        step.profile,
        tokens=workload.sequence_tokens // _inner(step),
        layer_passes=stage_layers * micro_batches,
    )
    by_use: dict[Use, float] = dict.fromkeys(get_args(Use), 0.0)
    for traffic in counts.communication:
        use = use_of(traffic.operation, ranks_of(traffic.group), settings)
        by_use[use] += message_seconds(traffic, step.profile, workload.cluster)
    passes = micro_batches * _chunks(step)
    forward = work.forward / passes
    backward = (work.backward + work.recompute) / passes
    tensor, context = by_use["tensor"] / passes, by_use["context"] / passes
    chunk_layers = stage_layers // _chunks(step)
    in_forward = tensor * forward_share("tensor", settings, chunk_layers)
    in_forward += context * forward_share("context", settings, chunk_layers)
    sends = by_use["forward"], by_use["backward"]
    if _chunks(step) > 1:
        sends = _sends_by_use(sum(sends), stage, settings["pipeline_parallel"], _chunks(step))
    exposed = StageSeconds(
        forward=forward + in_forward,
        backward=backward + tensor + context - in_forward,
        send_forward=sends[0] / passes,
        send_backward=sends[1] / passes,
    )
    return exposed, StageSeconds(forward=forward, backward=backward), by_use["once"]


def _sends_by_use(seconds: float, stage: int, stages: int, chunks: int) -> tuple[float, float]:
    """Seconds of an interleaved stage's sends in forwards and in backwards.

    The last stage also sends forwards to the first, so ranks do not tell them apart; their numbers
    do. The model's last chunk sends nothing in its forward, its first nothing in its backward.
    """
    forwards, backwards = chunks - (stage == stages - 1), chunks - (stage == 0)
    share = forwards / (forwards + backwards)
    return share * seconds, (1 - share) * seconds


def one_replica(step: CountedStep) -> StepTime:
    """DeepSpeed and PyTorch native, all ranks alike: the slowest of the counted ranks.

    Copies between the tiers are synchronous. On a CPU they cannot hide.
    """
    workload, profile = step.workload, step.profile
    degrees = ("sequence_parallel", "context_parallel", "tensor_parallel")
    degree = math.prod(step.settings.get(name, 1) for name in degrees)
    sequences = workload.sequences_per_step * degree // workload.cluster.ranks
    ranks = []
    hidden = []
    for report, counts in step.counted:
        compute = compute_seconds(
            counts,
            profile,
            tokens=workload.sequence_tokens // degree,
            layer_passes=workload.model.layers * sequences,
        ).total
        messages = sum(by_link(counts.communication, profile, workload.cluster).values())
        copies = copy_seconds(counts, profile)
        busy = compute + messages + copies + optimizer_seconds(counts, profile)
        ranks.append(RankTime(name=report.role, counts=counts, compute=compute, busy=busy))
        hidden.append(compute if profile.overlapped_copies else compute + copies)
    return StepTime(
        seconds=max(rank.busy for rank in ranks),
        seconds_if_hidden=max(hidden) + step.optimizer(),
        ranks=ranks,
    )


def sppo(step: CountedStep) -> StepTime:
    """The simulation of the plan that the adapter runs for these settings.

    Ranks are ordered by replica, stage and shard. A stage without a counted rank has the counts of
    the last counted stage before it: neighbouring stages may be one role.
    """
    adapter = registry.load_planner("sppo")
    options: Any = msgspec.convert(dict(step.settings), adapter.settings_type)
    plan = adapter.plan(step.workload, options)
    exposed = simulate_plan(plan, step.profile)
    hidden = simulate_plan(plan, without_messages(step.profile))
    after = plan.reduction_seconds + step.optimizer()
    by_stage = step.by_stage(lambda rank: rank // plan.sequence_parallel % plan.pipeline_parallel)
    ranks = []
    for stage, busy in enumerate(exposed.busy):
        report, counts = by_stage[max(counted for counted in by_stage if counted <= stage)]
        compute = hidden.busy[stage] / 1e9
        ranks.append(
            RankTime(name=report.role, counts=counts, compute=compute, busy=busy / 1e9 + after)
        )
    return StepTime(
        seconds=exposed.makespan / 1e9 + after,
        seconds_if_hidden=hidden.makespan / 1e9 + step.optimizer(),
        ranks=ranks,
    )


def without_messages(profile: Hardware) -> Hardware:
    """The same hardware with links that take no time; D2H and H2D too where copies overlap."""
    links = ["p2p_bytes_per_second", "collective_bytes_per_second"]
    if profile.overlapped_copies:
        links += ["d2h_bytes_per_second", "h2d_bytes_per_second"]
    latencies = ["p2p_latency_seconds"]
    if profile.internode_bytes_per_second is not None:
        links.append("internode_bytes_per_second")
        latencies.append("internode_latency_seconds")
    return replace(profile, **{**dict.fromkeys(links, INSTANT), **dict.fromkeys(latencies, 0.0)})  # type: ignore[arg-type]


SYSTEMS = {
    "megatron": (megatron, MEGATRON),
    "megatron-ours": (megatron, MEGATRON),
    "deepspeed": (one_replica, DEEPSPEED),
    "deepspeed-ours": (one_replica, HOSTED),
    "native": (one_replica, NATIVE),
    "sppo": (sppo, SPPO),
}
"""The step's time and its assumptions, by system."""

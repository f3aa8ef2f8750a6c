"""(workload, ranks, profile) -> Plan: N, the cut, and what travels to the host, with reasons.

Time is the simulated makespan of the very schedule that would run. Memory is the whole model of
`memory.py`. Offloading starts when memory asks for it: on hardware whose copies overlap, up to the
share that hides under the next subsequence's compute (paper sec. 5.2, alpha_i A_i <= BW * T);
beyond it, and on a CPU, where a copy takes compute time, no more than is needed.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sppo.costs import Profile, subsequence_cost
from sppo.errors import Infeasible, NotBuilt
from sppo.hostslots import slot_bytes
from sppo.memory import PartShape, kept_peak, stage_memory
from sppo.partition import check_cut, equal_cut, flops_balanced_cut
from sppo.plan import PartPlan, Plan, StagePlan, receive_ahead
from sppo.predict import simulate_plan
from sppo.schedule import compute_order
from sppo.simulate import Simulation
from sppo.workload import Workload, format_bytes

LEVELS = 32
"""Steps of an offload share from nothing to everything."""

CANDIDATES = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192)
"""Numbers of subsequences that are tried."""

GROUP_STAGES = 4
"""Subsequences of an interleaved group, per stage: slack for the other stages against the memory
of the messages that wait."""

DEVICE_MARGIN_BYTES = 1024**2
"""Left free under a device limit: what an allocator rounds and a kernel takes unseen."""


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """What the user fixes; None leaves it to the solver.

    policy: "auto" offloads what memory asks for, "no-offload" nothing, "full-offload" everything
    but K and V and the last subsequence.
    """

    pipeline_parallel: int | None = None
    sequence_parallel: int = 1
    subsequences: int | None = None
    virtual_stages: int | None = None
    group_subsequences: int | None = None
    policy: str = "auto"
    cut: str = "flops"

    def __post_init__(self) -> None:
        if self.policy in ("paper", "full-recompute", "lean"):
            raise NotBuilt(
                f"policy {self.policy!r}: recomputation and the paper's solver are not in this "
                "version; take auto, no-offload or full-offload"
            )
        if self.policy not in ("auto", "no-offload", "full-offload"):
            raise ValueError(f"unknown policy {self.policy!r}: auto, no-offload or full-offload")
        if self.cut not in ("flops", "equal"):
            raise ValueError(f"unknown cut {self.cut!r}: flops or equal")


def split_layers(layers: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Consecutive layer ranges; the first stages take the remainder, the last carries the head."""
    if stages > layers:
        raise ValueError(
            f"{layers} layers cannot fill {stages} pipeline stages: use at most {layers} ranks"
        )
    ranges = []
    start = 0
    for stage in range(stages):
        count = layers // stages + (1 if stage < layers % stages else 0)
        ranges.append((start, start + count))
        start += count
    return tuple(ranges)


def solve(workload: Workload, profile: Profile, options: SolverOptions | None = None) -> Plan:
    """The fastest plan that fits, by simulation.

    Raises Infeasible (which resource is short, by how much), NotBuilt or ValueError.
    """
    options = options or SolverOptions()
    stages = _pipeline_parallel(workload, options)
    interleavings = _interleavings(workload, options, stages)
    alignment = 16 if workload.sequence_tokens >= 1024 else 1
    if options.subsequences is not None:
        check_cut(workload.sequence_tokens, options.subsequences, 1)
        candidates: tuple[int, ...] = (options.subsequences,)
        alignment = min(alignment, workload.sequence_tokens // options.subsequences)
    else:
        candidates = tuple(n for n in CANDIDATES if n * alignment <= workload.sequence_tokens)
    best: Plan | None = None
    rejected: list[str] = []
    shortest: tuple[int, str] | None = None
    for virtual_stages, count in itertools.product(interleavings, candidates):
        try:
            plan = _plan(workload, profile, options, (stages, virtual_stages), count, alignment)
        except _Short as short:
            rejected.append(f"{virtual_stages} part(s) a stage, N {count}: short of {short}")
            if shortest is None or short.bytes < shortest[0]:
                shortest = (short.bytes, str(short))
            continue
        if best is None or plan.makespan_seconds < best.makespan_seconds:
            best = plan
    if best is None:
        assert shortest is not None
        raise Infeasible(
            f"{workload.name}: no plan fits; the nearest is short by {shortest[1]}. Raise the "
            "device or host memory, shorten the sequence, or use more ranks"
        )
    return replace(best, rejected=tuple(rejected))


def _pipeline_parallel(workload: Workload, options: SolverOptions) -> int:
    if options.sequence_parallel != 1:
        raise NotBuilt(
            f"sequence parallelism inside a stage (SP {options.sequence_parallel}) is not in this "
            "version of the engine; take SP 1"
        )
    ranks = workload.cluster.ranks
    stages = options.pipeline_parallel or ranks
    if stages != ranks:
        raise NotBuilt(
            f"PP {stages} on {ranks} ranks needs data-parallel replicas, which this version of the "
            f"engine does not have; take PP {ranks}"
        )
    split_layers(workload.model.layers, stages)
    return stages


def _interleavings(workload: Workload, options: SolverOptions, stages: int) -> tuple[int, ...]:
    """Numbers of parts per stage worth a try: as long as every part has a layer."""
    layers = workload.model.layers
    if options.virtual_stages is not None:
        if options.virtual_stages < 1 or stages * options.virtual_stages > layers:
            raise ValueError(
                f"{layers} layers cannot form {stages} x {options.virtual_stages} parts: take "
                f"virtual_stages between 1 and {layers // stages}"
            )
        return (options.virtual_stages,)
    if stages == 1:
        return (1,)
    return tuple(v for v in (1, 2, 4, 8) if layers % (stages * v) == 0) or (1,)


class _Short(Exception):
    """This N does not fit: by `bytes` of `what`."""

    def __init__(self, size_bytes: int, what: str) -> None:
        super().__init__(f"{format_bytes(size_bytes)} of {what}")
        self.bytes = size_bytes


def _plan(
    workload: Workload,
    profile: Profile,
    options: SolverOptions,
    degrees: tuple[int, int],
    count: int,
    alignment: int,
) -> Plan:
    """One N, one (stages, virtual stages): the least shares that fit, then the simulation."""
    model, tokens = workload.model, workload.sequence_tokens
    stages, virtual_stages = degrees
    if options.cut == "equal":
        lengths = equal_cut(tokens, count, alignment=alignment)
    else:
        lengths = flops_balanced_cut(model, tokens, count, alignment=alignment)
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    shapes = [
        PartShape(model=model, layers=range(*layers), element_bytes=workload.element_bytes)
        for layers in split_layers(model.layers, stages * virtual_stages)
    ]
    group = options.group_subsequences or _even_group(len(lengths), GROUP_STAGES * stages)
    order = compute_order(virtual_stages, len(lengths), group)
    ahead = receive_ahead(stages, virtual_stages, group)
    stage_plans = tuple(
        _stage_plan(
            workload, profile, options, shapes[stage::stages], order, ahead, starts, lengths
        )
        for stage in range(stages)
    )
    draft = Plan(
        workload=workload.name,
        model=model,
        sequence_tokens=tokens,
        sequences_per_step=workload.sequences_per_step,
        element_bytes=workload.element_bytes,
        hardware=profile.name,
        sequence_parallel=1,
        pipeline_parallel=stages,
        virtual_stages=virtual_stages,
        group_subsequences=group,
        lengths_tokens=lengths,
        stages=stage_plans,
        fetch_ahead=1 if profile.overlapped_copies else 0,
        makespan_seconds=0.0,
        bubble_share=0.0,
        reasons=(),
        rejected=(),
    )
    simulation = simulate_plan(draft, profile)
    return replace(
        draft,
        makespan_seconds=simulation.makespan / 1e9,
        bubble_share=simulation.bubble_share,
        reasons=_reasons(workload, draft, simulation, profile),
    )


def _even_group(subsequences: int, largest: int) -> int:
    """Group size for groups of nearly equal size, none larger than `largest`."""
    groups = -(-subsequences // largest)
    return -(-subsequences // groups)


def _stage_plan(
    workload: Workload,
    profile: Profile,
    options: SolverOptions,
    shapes: Sequence[PartShape],
    order: Sequence[tuple[int, int]],
    messages_ahead: int,
    starts: Sequence[int],
    lengths: Sequence[int],
) -> StagePlan:
    """The least offload at which this stage fits the device. Raises _Short."""
    limit = workload.device_memory_bytes
    kept = [[shape.kept_bytes(length) for length in lengths] for shape in shapes]
    hidden = [_hidden_shares(shape, profile, starts, lengths) for shape in shapes]

    def stage(level: int, capped: bool) -> StagePlan:
        wanted = _shares(level, len(lengths) - 1)
        parts = []
        moved = []
        for shape, caps, sizes in zip(shapes, hidden, kept, strict=True):
            shares = [min(s, cap) for s, cap in zip(wanted, caps, strict=True)]
            part, gone = part_plan(shape, lengths, shares if capped else wanted, sizes)
            parts.append(part)
            moved.append(gone)
        host = sum(
            host_bytes(shape, part, lengths) for shape, part in zip(shapes, parts, strict=True)
        )
        memory = stage_memory(
            shapes,
            starts,
            lengths,
            messages_ahead=messages_ahead,
            kept_peak_bytes=kept_peak(order, kept, moved),
            host_bytes=host,
        )
        return StagePlan(parts=tuple(parts), memory=memory)

    def excess(found: StagePlan) -> int:
        return 0 if limit is None else found.memory.total + DEVICE_MARGIN_BYTES - limit

    everything = LEVELS * (len(lengths) - 1)
    if options.policy == "full-offload":
        best = stage(everything, False)
    elif options.policy == "no-offload" or limit is None:
        best = stage(0, False)
    else:
        capped = profile.overlapped_copies and excess(stage(everything, True)) <= 0
        least = bisect_left(range(everything), 0, key=lambda n: -excess(stage(n, capped)))
        best = stage(least, capped)
    if excess(best) > 0:
        where = f"device memory on the stage that begins with layer {shapes[0].layers[0]}"
        raise _Short(excess(best), where)
    host_limit = workload.host_memory_bytes
    if host_limit is not None and best.memory.host > host_limit:
        raise _Short(best.memory.host - host_limit, "host memory")
    return best


def _shares(level: int, subsequences: int) -> list[float]:
    """Offload shares of all subsequences but the last, from nothing (0) to everything.

    From level to level one more subsequence, the earliest first, goes one step of 1 / LEVELS up.
    """
    if subsequences == 0:
        return []
    step, ahead = divmod(level, subsequences)
    return [(step + (index < ahead)) / LEVELS for index in range(subsequences)]


def part_plan(
    shape: PartShape, lengths: Sequence[int], shares: Sequence[float], kept: Sequence[int]
) -> tuple[PartPlan, list[int]]:
    """The units that give these shares (all subsequences but the last), and bytes moved."""
    chosen = [
        shape.choose_units(length, share)
        for length, share in zip(lengths[:-1], shares, strict=True)
    ]
    chosen.append(((), 0))  # the last subsequence's backward starts at once
    moved = [size for _, size in chosen]
    plan = PartPlan(
        layers=(shape.layers.start, shape.layers.stop),
        offload_share=tuple(gone / size for gone, size in zip(moved, kept, strict=True)),
        offload_units=tuple(units for units, _ in chosen),
    )
    return plan, moved


def host_bytes(shape: PartShape, part: PartPlan, lengths: Sequence[int]) -> int:
    """Host arena bytes of one part: every unit in a slot of its own."""
    return sum(
        slot_bytes(size)
        for length, units in zip(lengths, part.offload_units, strict=True)
        for key, size in shape.candidates(length)
        if key in set(units)
    )


def _hidden_shares(
    shape: PartShape, profile: Profile, starts: Sequence[int], lengths: Sequence[int]
) -> list[float]:
    """alpha_i = min(1, BW_D2H * T_(i+1) / A_i): what leaves while the next subsequence computes.

    Paper sec. 5.2, from its constraint; T is the forward time of the next subsequence, A the bytes
    of the candidates. One entry per subsequence but the last.
    """
    shares = []
    for index, length in enumerate(lengths[:-1]):
        following = subsequence_cost(
            shape.model,
            profile,
            layers=len(shape.layers),
            head=shape.last,
            start=starts[index + 1],
            tokens=lengths[index + 1],
        )
        room = profile.d2h_bytes_per_second * following.forward_ns / 1e9
        candidates = sum(size for _, size in shape.candidates(length))
        shares.append(min(1.0, room / candidates))
    return shares


def _reasons(
    workload: Workload, plan: Plan, simulation: Simulation, profile: Profile
) -> tuple[str, ...]:
    """What bound, in words."""
    reasons = [
        f"N {plan.subsequences} with {plan.virtual_stages} part(s) a stage has the least simulated "
        f"makespan: fewer, longer subsequences leave more bubble than its "
        f"{simulation.bubble_share:.1%}, shorter ones lose kernel efficiency",
    ]
    limit = workload.device_memory_bytes
    if limit is None:
        reasons.append("no device limit: nothing needs to travel")
    else:
        tightest = max(stage.memory.total for stage in plan.stages)
        reasons.append(
            f"device limit {format_bytes(limit)}: the fullest stage is predicted at "
            f"{format_bytes(tightest)}; the least offload that fits is taken"
        )
    if not profile.overlapped_copies:
        reasons.append("copies are synchronous on this hardware and charged as compute")
    return tuple(reasons)

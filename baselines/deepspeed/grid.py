"""The points of DeepSpeed's grid and their order: the cheapest step first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from baselines.deepspeed.settings import HOSTABLE, Checkpointing, DeepSpeedSettings
from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.blocks import block_of

ZERO_STAGES = (0, 1, 2, 3)


def degrees(workload: Workload) -> list[int]:
    """The Ulysses degrees whose replicas have equal sequences, the largest first."""
    ranks, sequences = workload.cluster.ranks, workload.sequences_per_step
    return [n for n in reversed(divisors(ranks)) if sequences % (ranks // n) == 0]


def choices(workload: Workload, degree: int) -> Iterator[DeepSpeedSettings]:
    """The points of one Ulysses degree, in any order.

    With CUDA also hosted hidden states, where memory is shortest: all blocks and a tiled loss. In
    ZeRO-3 also with the optimizer on the host: the leanest points of all.
    """
    layers = workload.model.layers
    quarters = sorted({layers * quarter // 4 for quarter in (1, 2, 3)} - {0, layers})
    kinds: list[tuple[Checkpointing, int | None]] = [
        ("none", None),
        *(("save-attention", count) for count in (*quarters, None)),
        *(("blocks", count) for count in (*quarters, None)),
    ]
    if degree > 1:  # without all-to-alls it saves more than "save-attention" for nothing
        kinds.append(("split", None))
    for checkpointing, count in kinds:
        for point in points_of(workload, degree, checkpointing, count):
            yield point
            if _is_hosted_too(workload, point):
                yield replace(point, host_hidden_states=True)
                if point.zero_stage == 3:
                    yield replace(point, host_hidden_states=True, offload_optimizer=True)


def points_of(
    workload: Workload, degree: int, checkpointing: Checkpointing, count: int | None = None
) -> Iterator[DeepSpeedSettings]:
    """One checkpointing of the first `count` blocks (None: all), by tiles and ZeRO stage."""
    for tiled_mlp, tiled_loss, zero_stages in _tiles(checkpointing, count):
        for zero_stage in zero_stages:
            for overlap_comm in _overlaps(workload, zero_stage):
                yield DeepSpeedSettings(
                    sequence_parallel=degree,
                    zero_stage=zero_stage,
                    checkpointing=checkpointing,
                    checkpointed_layers=count,
                    tiled_mlp=tiled_mlp,
                    tiled_loss=tiled_loss,
                    overlap_comm=overlap_comm,
                )


def _is_hosted_too(workload: Workload, point: DeepSpeedSettings) -> bool:
    is_short = point.tiled_loss and point.checkpointed_layers is None
    return workload.cluster.device == "cuda" and is_short and point.checkpointing in HOSTABLE


def _tiles(
    checkpointing: Checkpointing, count: int | None
) -> Iterator[tuple[int, bool, tuple[int, ...]]]:
    """(Tiles of an MLP, tiled loss, ZeRO stages). A tiled loss repeats nothing."""
    yield 0, False, ZERO_STAGES
    if checkpointing == "blocks" and count is not None:
        return
    yield 0, True, ZERO_STAGES
    if checkpointing == "blocks":
        yield 4, True, (1, 3)


def _overlaps(workload: Workload, zero_stage: int) -> tuple[bool | None, ...]:
    """With streams ZeRO-1 and 2 may overlap, for a second bucket. ZeRO-3 does by default."""
    has_choice = workload.cluster.device == "cuda" and zero_stage in (1, 2)
    return (True, None) if has_choice else (None,)


def in_order(workload: Workload, points: Iterable[DeepSpeedSettings]) -> list[DeepSpeedSettings]:
    """Cheapest step first: by repeated work, host copies, ZeRO traffic, tiles and overlap."""

    def cost(settings: DeepSpeedSettings) -> tuple[float, int, int, bool, bool]:
        return (
            _repeated(workload, settings),
            bool(settings.host_hidden_states) + bool(settings.offload_optimizer),
            settings.zero_stage,
            settings.tiled_loss,
            not settings.overlap_comm,
        )

    return sorted(points, key=cost)


def _repeated(workload: Workload, settings: DeepSpeedSettings) -> float:
    """Repeated work, in forwards of a block's dense products.

    The all-to-alls of a block count as one and a half of them (docs/deepspeed.md), a tiled MLP as
    half of one.
    """
    block, tokens = block_of(workload.model), workload.sequence_tokens
    count = settings.layers_to_checkpoint(workload.model)
    repeated = float(count)
    if settings.checkpointing == "blocks":
        dense = tokens * block.dense_flops_per_token
        repeated += count * block.mixer_flops(0, tokens) / dense
    if settings.checkpointing != "split" and settings.sequence_parallel > 1:
        repeated += 1.5 * count
    if settings.tiled_mlp:
        repeated += workload.model.layers / 2
    return repeated

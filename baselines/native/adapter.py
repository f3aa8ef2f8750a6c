"""PyTorch native as a system: what torch itself has for long sequences, without a library.

Sharding, mixed precision and prefetch are FSDP2's own (`sharding.py`), as torchtitan applies them.
So are the styles of TP (`tensor_parallel.py`). Ring attention is torch's (`ring.py`), Ulysses is
ours (`ulysses.py`), the decoder is plain torch (`model.py`). torchtitan parallelises its own model
classes alone, so the row has another name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from baselines.native.place import misfit_of_tokens
from baselines.native.settings import Checkpointing, NativeSettings
from baselines.protocol import Adapter, Context, Misfit, Role, Unavailable, Weights
from baselines.versions import version
from sppo.config.models import Model
from sppo.config.sizes import divisors
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.native.system import NativeSystem


class NativeAdapter(Adapter):
    """Builds `NativeSystem`; has the grid and the limits."""

    name = "native"
    settings_type = NativeSettings
    remark = "Ulysses: ours, on torch's functional all-to-all (torch ships ring attention alone)"

    def grid(self, workload: Workload) -> tuple[NativeSettings, ...]:
        """Fastest step first: a repeated message costs more than a repeated product.

        With one sequence a step, all ranks share the sequence.
        """
        return tuple(_grid(workload))

    def measured_alone(self, workload: Workload) -> tuple[NativeSettings, ...]:
        """On CUDA the grid's points with Ulysses alone again, with compiled blocks."""
        if workload.cluster.device != "cuda":
            return ()
        return tuple(
            replace(point, compile=True)
            for point in _grid(workload)
            if point.tensor_parallel == point.context_parallel == 1
        )

    def check(self, workload: Workload, settings: NativeSettings) -> None:
        """Raise Misfit or Unavailable, with the owner of the rule."""
        model, ranks, whole = workload.model, workload.cluster.ranks, settings.ranks_of_a_sequence
        if ranks % whole:
            raise Misfit(f"native: {_degrees(settings)} does not divide {ranks} ranks")
        replicas = ranks // whole
        if workload.sequences_per_step % replicas:
            raise Misfit(
                f"native: {workload.sequences_per_step} sequences do not split over {replicas} "
                "replicas"
            )
        obstacle = misfit_of_tokens(workload.sequence_tokens, settings)
        if obstacle is not None:
            raise Misfit(obstacle)
        obstacle = _tensor_obstacle(model, settings.tensor_parallel) or _head_obstacle(
            model, settings.sequence_parallel, settings.tensor_parallel
        )
        if obstacle is not None:
            raise Unavailable(obstacle)
        if settings.layers_to_checkpoint(model) > model.layers:
            raise Unavailable(
                f"native: cannot checkpoint {settings.checkpointed_layers} of {model.layers} layers"
            )
        if settings.compile and workload.cluster.device == "cuda" and not find_spec("triton"):
            raise Unavailable("native: torch.compile on CUDA needs Triton, which is not installed")
        if workload.dtype == "float64" and workload.cluster.device == "cuda":
            raise Unavailable("torch's fused attention has no float64 on CUDA")
        ring_on_cuda = settings.context_parallel > 1 and workload.cluster.device == "cuda"
        if ring_on_cuda and workload.dtype != "bfloat16":
            raise Unavailable("torch's flash attention of CUDA takes bfloat16 only")

    def check_emulated(self, workload: Workload, settings: NativeSettings) -> None:
        """Raise Unavailable for compiled blocks, whose kernels no emulation counts."""
        if settings.compile:
            raise Unavailable(
                "native: compile is not emulated: fake tensors run no compiled kernels, so their "
                "memory cannot be counted"
            )

    def roles(self, workload: Workload, settings: NativeSettings) -> tuple[Role, ...]:
        """A role a ring rank: its attention has parts of its own.

        FSDP2 pads shards to equal size, and rank 0 has full ones.
        """
        ring, ranks = settings.context_parallel, workload.cluster.ranks
        if ring == 1:
            return (Role(name="every rank", rank=0, ranks=ranks),)
        return tuple(
            Role(name=f"ring rank {r}", rank=r * settings.ranks_of_a_ring_rank, ranks=ranks // ring)
            for r in range(ring)
        )

    def describe(self, settings: NativeSettings) -> str:
        words = [_degrees(settings)]
        words.append("FSDP2" if settings.reshard_after_forward else "FSDP2 without reshard")
        if settings.checkpointing != "none":
            count = settings.checkpointed_layers
            blocks = "all blocks" if count is None else f"{count} block{'s' * (count > 1)}"
            words.append(f"checkpoint {blocks}{_saving(settings)}")
        if settings.compile:
            words.append("compiled blocks")
        return ", ".join(words)

    def versions(self) -> dict[str, str]:
        return {"torch": version("torch")}

    def prepare(
        self, workload: Workload, settings: NativeSettings, weights: Weights, context: Context
    ) -> NativeSystem:
        self.check(workload, settings)
        if context.ranks != workload.cluster.ranks:
            raise ValueError(f"{context.ranks} ranks are running, not {workload.cluster.ranks}")
        from baselines.native.system import NativeSystem

        return NativeSystem(workload, settings, weights, context)


def _tensor_obstacle(model: Model, tensor: int) -> str | None:
    """Every rank of a TP group has equal parts."""
    for count, what in ((model.heads, "heads"), (model.kv_heads, "KV heads")):
        if count % tensor:
            return (
                f"native: {count} {what} do not split over TP {tensor}: torchtitan's recipe of "
                f"torch's ColwiseParallel gives a rank whole {what}"
            )
    for count, what in ((model.ffn, "MLP columns"), (model.vocabulary, "words")):
        if count % tensor:
            return (
                f"native: {count} {what} do not split over TP {tensor}: this row shards evenly "
                "(torch would pad)"
            )
    return None


def _head_obstacle(model: Model, ulysses: int, tensor: int) -> str | None:
    """Every Ulysses rank has as many heads; fewer KV heads than ranks are copied."""
    heads, kv_heads = model.heads // tensor, model.kv_heads // tensor
    owner = f" of TP {tensor}" if tensor > 1 else ""
    if heads % ulysses:
        return f"native: {heads} heads{owner} do not split over Ulysses {ulysses}; --cp adds a ring"
    if kv_heads % ulysses and ulysses % kv_heads:
        return (
            f"native: {kv_heads} KV heads{owner} neither split over Ulysses {ulysses} nor divide it"
        )
    return None


def _degrees(settings: NativeSettings) -> str:
    """The degrees of a sequence: "TP8 x Ulysses 4 x ring 2"."""
    tensor = f"TP{settings.tensor_parallel} x " if settings.tensor_parallel > 1 else ""
    ring = f" x ring {settings.context_parallel}" if settings.context_parallel > 1 else ""
    return f"{tensor}Ulysses {settings.sequence_parallel}{ring}"


def _saving(settings: NativeSettings) -> str:
    """What the checkpointing saves, in words."""
    if settings.checkpointing == "save-messages" and settings.tensor_parallel > 1:
        return " but attention, all-to-alls and reduce-scatters"
    return {
        "save-attention": " but attention",
        "save-messages": " but attention and all-to-alls",
    }.get(settings.checkpointing, "")


def _grid(workload: Workload) -> Iterator[NativeSettings]:
    """A block's full recomputation only in all blocks: it runs attention again, and saves least."""
    model, ranks = workload.model, workload.cluster.ranks
    wholes = [
        whole
        for whole in reversed(divisors(ranks))
        if workload.sequences_per_step % (ranks // whole) == 0
    ]
    for whole in wholes:
        ulysses = _most_ulysses(model, whole)
        yield from _checkpointing_choices(model.layers, ulysses, whole // ulysses)
    for whole in wholes:
        # TP sends more than Ulysses, and most inside a node: one degree, the largest there.
        tensor = _most_tensor(model, math.gcd(whole, workload.cluster.ranks_per_node))
        if tensor > 1:
            yield from _tensor_choices(model, whole, tensor)


def _most_tensor(model: Model, ranks: int) -> int:
    """The largest TP degree of so many ranks."""
    return max(degree for degree in divisors(ranks) if not _tensor_obstacle(model, degree))


def _most_ulysses(model: Model, ranks: int, tensor: int = 1) -> int:
    """The largest Ulysses degree. A ring only beyond the heads: it sends more (docs/native.md)."""
    return max(n for n in divisors(ranks) if not _head_obstacle(model, n, tensor))


def _tensor_choices(model: Model, whole: int, tensor: int) -> Iterator[NativeSettings]:
    """Fewer points than without TP, which is ahead at long sequences: all blocks or none."""
    ulysses = _most_ulysses(model, whole // tensor, tensor)
    ring = whole // tensor // ulysses
    kinds: list[Checkpointing] = ["none", "save-attention", "full"]
    if ulysses > 1 and ring == 1:
        kinds.insert(1, "save-messages")
    for checkpointing in kinds:
        yield NativeSettings(
            tensor_parallel=tensor,
            sequence_parallel=ulysses,
            context_parallel=ring,
            reshard_after_forward=checkpointing != "none",
            checkpointing=checkpointing,
        )


def _checkpointing_choices(layers: int, ulysses: int, ring: int) -> Iterator[NativeSettings]:
    kinds: list[Checkpointing] = ["save-attention"]
    if ulysses > 1 and ring == 1:
        kinds.insert(0, "save-messages")
    quarters = sorted({layers * quarter // 4 for quarter in (1, 2, 3)} - {0, layers})
    choices: list[tuple[Checkpointing, int | None]] = [
        ("none", None),
        *((kind, count) for kind in kinds for count in (*quarters, None)),
        ("full", None),
    ]
    for checkpointing, count in choices:
        for reshard in (False, True):
            yield NativeSettings(
                sequence_parallel=ulysses,
                context_parallel=ring,
                reshard_after_forward=reshard,
                checkpointing=checkpointing,
                checkpointed_layers=count,
            )


ADAPTER = NativeAdapter()

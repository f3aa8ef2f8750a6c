"""Megatron-Core as it ships: its GPTModel, 1F1B schedule, data parallelism and optimizer.

This file chooses layouts; `system.py` runs one. Not Megatron's own are the core attention
(`attention.py`), the weight mapping (`weights.py`) and, on a CPU, the patches (`patches.py`). Only
`prepare` imports the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import product

from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Adapter, Context, Misfit, Role, System, Unavailable, Weights
from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.weights import shard_obstacle


class MegatronAdapter(Adapter):
    """Builds `MegatronSystem`; has the grid and the library's limits."""

    name = "megatron"
    settings_type = MegatronSettings
    environment: Mapping[str, str] = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    remark = (
        "core attention: ours, on scaled_dot_product_attention (without TE, mcore's own keeps "
        "S x S scores)"
    )

    def grid(self, workload: Workload) -> tuple[MegatronSettings, ...]:
        """Every layout that fills the ranks, with every recompute choice; least recompute first."""
        points = [
            point
            for layout in _layouts(workload)
            for point in _recompute_choices(layout, workload.model.layers)
            if _misfit(workload, point) is None and _obstacle(workload, point) is None
        ]
        order = ("none", "modules", "block", "full")
        return tuple(
            sorted(points, key=lambda point: (order.index(point.recompute), point.recompute_layers))
        )

    def same_layout(
        self, workload: Workload, pipeline_parallel: int, tensor_parallel: int
    ) -> MegatronSettings:
        """SPPO's degrees with full recompute, the usual long-sequence setting of Megatron."""
        return MegatronSettings(
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            sequence_parallel=tensor_parallel > 1,
            recompute="full",
        )

    def check(self, workload: Workload, settings: MegatronSettings) -> None:
        for find, error in ((_misfit, Misfit), (_obstacle, Unavailable)):
            obstacle = find(workload, settings)
            if obstacle is not None:
                raise error(f"megatron, {self.describe(settings)}: {obstacle}")

    def roles(self, workload: Workload, settings: MegatronSettings) -> tuple[Role, ...]:
        """A role a stage: its ranks have equal shards, and a stage is a block of ranks."""
        stages, ranks = settings.pipeline_parallel, workload.cluster.ranks
        if stages == 1:
            return (Role(name="every rank", rank=0, ranks=ranks),)
        each = ranks // stages
        ends = {0: " (embedding)", stages - 1: " (head)"}
        names = [f"stage {stage}{ends.get(stage, '')}" for stage in range(stages)]
        return tuple(
            Role(name=name, rank=stage * each, ranks=each) for stage, name in enumerate(names)
        )

    def describe(self, settings: MegatronSettings) -> str:
        degrees = (
            ("TP", settings.tensor_parallel),
            ("PP", settings.pipeline_parallel),
            ("CP", settings.context_parallel),
        )
        words = [f"{name}{degree}" for name, degree in degrees if degree > 1] or ["DP only"]
        if settings.sequence_parallel:
            words.append("SP")
        if settings.distributed_optimizer:
            words.append("ZeRO-1")
        return f"{' '.join(words)}, {_recompute_words(settings)}"

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("megatron-core", "torch")}

    def prepare(
        self, workload: Workload, settings: MegatronSettings, weights: Weights, context: Context
    ) -> System:
        self.check(workload, settings)
        if context.ranks != workload.cluster.ranks:
            raise Unavailable(f"{context.ranks} ranks run, {workload.cluster.ranks} are asked for")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core\..*")
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
        from baselines.megatron.system import MegatronSystem

        return MegatronSystem(workload, settings, weights, context)


def _recompute_words(settings: MegatronSettings) -> str:
    if settings.recompute == "modules":
        return f"recompute {'+'.join(settings.recompute_modules)}"
    if settings.recompute == "block":
        layers = "layer" if settings.recompute_layers == 1 else "layers"
        return f"recompute {settings.recompute_layers} {layers} a stage"
    return {"none": "no recompute", "full": "full recompute"}[settings.recompute]


def _layouts(workload: Workload) -> Iterator[MegatronSettings]:
    """Degrees and sequence parallelism, without a choice of recompute.

    Where a shard has replicas, the optimizer is sharded over them, at equal bytes of messages.
    """
    ranks = workload.cluster.ranks
    for tensor, pipeline, context in product(divisors(ranks), repeat=3):
        if ranks % (tensor * pipeline * context):
            continue
        for sequence_parallel in (True, False) if tensor > 1 else (False,):
            yield MegatronSettings(
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                context_parallel=context,
                sequence_parallel=sequence_parallel,
                distributed_optimizer=ranks > tensor * pipeline,
            )


def _recompute_choices(layout: MegatronSettings, layers: int) -> Iterator[MegatronSettings]:
    """Without core_attn: recomputation of a fused attention saves no memory."""
    yield layout
    yield replace(layout, recompute="modules", recompute_modules=("mlp",))
    for count in range(1, layers // layout.pipeline_parallel):
        yield replace(layout, recompute="block", recompute_layers=count)
    yield replace(layout, recompute="full")


def _misfit(workload: Workload, settings: MegatronSettings) -> str | None:
    """The number that the degrees do not divide, or None."""
    ranks, tokens = workload.cluster.ranks, workload.sequence_tokens
    tensor, context = settings.tensor_parallel, settings.context_parallel
    if ranks % settings.model_ranks:
        return f"TP x PP x CP = {settings.model_ranks} does not divide {ranks} ranks"
    replicas = ranks // settings.model_ranks
    if workload.sequences_per_step % replicas:
        return f"{workload.sequences_per_step} sequences a step do not divide over DP {replicas}"
    if context > 1 and tokens % (2 * context):
        return f"{tokens} tokens do not divide into 2 x CP = {2 * context} chunks"
    if settings.sequence_parallel and (tokens // context) % tensor:
        return f"{tokens // context} tokens do not divide over TP {tensor}"
    return None


def _obstacle(workload: Workload, settings: MegatronSettings) -> str | None:
    """The reason why Megatron cannot run the settings, or None; without the library."""
    model = workload.model
    tensor, pipeline = settings.tensor_parallel, settings.pipeline_parallel
    uneven = shard_obstacle(model, tensor, "TP", copied_kv_heads=True)
    if uneven is not None:
        return uneven
    if model.layers % pipeline:
        return f"{model.layers} layers do not divide over PP {pipeline}"
    if settings.recompute_layers > model.layers // pipeline:
        return f"a stage has only {model.layers // pipeline} layers to recompute"
    if workload.dtype == "float64":
        return "Megatron's optimizer takes float32 and bfloat16 parameters only"
    context = settings.context_parallel
    if context > 1 and workload.cluster.device == "cuda" and workload.dtype != "bfloat16":
        return "the flash attention of CUDA takes bfloat16 only"
    return None


ADAPTER = MegatronAdapter()

"""Megatron-Core as it ships: its GPTModel, 1F1B schedules, data parallelism and optimizer.

This file chooses layouts of its local layer spec, without TransformerEngine (`te.py` is the spec
with it); `system.py` runs one. Not Megatron's own are the core attention (`attention.py`), the
weight mapping (`weights.py`) and, on a CPU, the patches (`patches.py`). Only `prepare` imports the
library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from baselines.megatron.settings import MegatronSettings, Recompute, microbatch_group
from baselines.megatron.te_rules import WITHOUT_TE, missing_without_te, te_version
from baselines.protocol import Adapter, Context, Misfit, Role, System, Unavailable, Weights
from baselines.versions import version
from sppo.config.sizes import divisors
from sppo.config.workload import Workload
from sppo.plan.weights import shard_obstacle


class MegatronAdapter(Adapter):
    """Builds `MegatronSystem`; has the grid and the library's limits."""

    name = "megatron"
    settings_type = MegatronSettings
    environment: Mapping[str, str] = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    remark = (
        f"{WITHOUT_TE}; core attention: ours, on the run's kernel (mcore's own keeps S x S "
        "scores); with CP: ours, K and V all-gathered"
    )

    recomputes: tuple[Recompute, ...] = ("none", "modules", "block", "full")
    """What the row may recompute, least first."""

    def grid(self, workload: Workload) -> tuple[MegatronSettings, ...]:
        """Every layout that fills the ranks, with every recompute choice; least recompute first.

        Counts of recomputed layers are ordered by their share of the model. Of equal choices more
        model chunks come first: less idle time, and more memory.
        """
        points = [
            point
            for layout in _layouts(workload)
            for point in self.recompute_choices(
                layout, workload.model.layers // (layout.pipeline_parallel * layout.chunks)
            )
            if _misfit(workload, point) is None and _obstacle(workload, point) is None
        ]
        return tuple(sorted(points, key=self._order))

    def recompute_choices(
        self, layout: MegatronSettings, layers: int
    ) -> Iterator[MegatronSettings]:
        """Every choice of a layout whose model chunks have so many layers.

        Without core_attn: recomputation of a fused attention saves no memory.
        """
        yield layout
        for modules in MODULE_CHOICES:
            yield replace(layout, recompute="modules", recompute_modules=modules)
        for count in range(1, layers):
            yield replace(layout, recompute="block", recompute_layers=count)
        yield replace(layout, recompute="full")

    def _order(self, point: MegatronSettings) -> tuple[int, ...]:
        modules = point.recompute_modules
        return (
            self.recomputes.index(point.recompute),
            MODULE_CHOICES.index(modules) if modules else 0,
            # Of the model; 0 is every layer.
            point.recompute_layers * point.chunks * point.pipeline_parallel or _EVERY_LAYER,
            -point.chunks,
        )

    def same_layout(
        self,
        workload: Workload,
        pipeline_parallel: int,
        tensor_parallel: int,
        context_parallel: int = 1,
    ) -> MegatronSettings:
        """SPPO's degrees with full recompute, the usual long-sequence setting of Megatron."""
        return MegatronSettings(
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            context_parallel=context_parallel,
            sequence_parallel=tensor_parallel > 1,
            recompute="full",
        )

    def check(self, workload: Workload, settings: MegatronSettings) -> None:
        if settings.recompute not in self.recomputes:
            raise Unavailable(
                f"{self.name} recomputes {', '.join(self.recomputes)}, not {settings.recompute}"
            )
        finds = ((_misfit, Misfit), (_obstacle, Unavailable), (self.absent, Unavailable))
        for find, error in finds:
            obstacle = find(workload, settings)
            if obstacle is not None:
                raise error(f"{self.name}, {self.describe(settings)}: {obstacle}")

    def absent(self, workload: Workload, settings: MegatronSettings) -> str | None:
        """The part of Megatron that the settings need and that this system has not, or None."""
        return missing_without_te(settings)

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
            ("VP", settings.chunks),
            ("CP", settings.context_parallel),
        )
        words = [f"{name}{degree}" for name, degree in degrees if degree > 1] or ["DP only"]
        if settings.sequence_parallel:
            words.append("SP")
        if settings.distributed_optimizer:
            words.append("ZeRO-1")
        if settings.transformer_engine:
            words.append("TE")
        return ", ".join((" ".join(words), _recompute_words(settings), *_own_ways(settings)))

    def versions(self) -> dict[str, str]:
        """With TransformerEngine's where it is installed: Megatron's optimizer takes it then."""
        return {**{name: version(name) for name in ("megatron-core", "torch")}, **te_version()}

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


_EVERY_LAYER = 10**6

MODULE_CHOICES = (("layernorm",), ("mlp",), ("mlp", "layernorm"))
"""Modules that a grid recomputes, least first."""

_WHOLE = {"none": "no recompute", "full": "full recompute"}


def _recompute_words(settings: MegatronSettings) -> str:
    kind, layers = settings.recompute, settings.recompute_layers
    if kind == "modules":
        return f"recompute {'+'.join(settings.recompute_modules)}"
    where = "stage" if settings.virtual_pipeline is None else "chunk"
    some = f"{layers} layer{'s' * (layers > 1)} a {where}"
    if kind == "block":
        return f"recompute {some}"
    if kind == "save-attention":
        return f"recompute all but attention{f' in {some}' if layers else ''}"
    return _WHOLE[kind]


def _own_ways(settings: MegatronSettings) -> Iterator[str]:
    """Megatron's own ways of context parallelism and offloading, where they are set."""
    if settings.cp_comm_type is not None:
        yield f"cp_comm_type {settings.cp_comm_type} (TE's attention)"
    if settings.cpu_offloading_layers is not None:
        yield f"cpu_offloading {settings.cpu_offloading_layers} layers"
    if settings.offload_modules is not None:
        yield f"offload {'+'.join(settings.offload_modules)}"


def _layouts(workload: Workload) -> Iterator[MegatronSettings]:
    """Degrees, model chunks and sequence parallelism, without a choice of recompute.

    Where a shard has replicas, the optimizer is sharded over them, at equal bytes of messages.
    """
    ranks = workload.cluster.ranks
    for tensor, pipeline, context in product(divisors(ranks), repeat=3):
        if ranks % (tensor * pipeline * context):
            continue
        layers = workload.model.layers // pipeline
        chunk_counts = divisors(layers)[1:] if pipeline > 1 and layers else ()
        sequence_parallel_choices = (True, False) if tensor > 1 else (False,)
        for chunks, sequence_parallel in product((None, *chunk_counts), sequence_parallel_choices):
            yield MegatronSettings(
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                context_parallel=context,
                sequence_parallel=sequence_parallel,
                distributed_optimizer=ranks > tensor * pipeline,
                virtual_pipeline=chunks,
            )


def _misfit(workload: Workload, settings: MegatronSettings) -> str | None:
    """The number that the degrees do not divide, or None."""
    ranks, tokens = workload.cluster.ranks, workload.sequence_tokens
    tensor, context = settings.tensor_parallel, settings.context_parallel
    if ranks % settings.model_ranks:
        return f"TP x PP x CP = {settings.model_ranks} does not divide {ranks} ranks"
    replicas = ranks // settings.model_ranks
    if workload.sequences_per_step % replicas:
        return f"{workload.sequences_per_step} sequences a step do not divide over DP {replicas}"
    pipeline, micro_batches = settings.pipeline_parallel, workload.sequences_per_step // replicas
    interleaved = settings.virtual_pipeline is not None
    if interleaved and microbatch_group(pipeline, micro_batches) is None:
        return (
            f"{micro_batches} sequences a replica are fewer than PP {pipeline} (Megatron's rule "
            "for interleaving: micro-batches run in groups of at least PP)"
        )
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
    chunks = pipeline * settings.chunks
    if model.layers % chunks:
        interleaved = "" if settings.virtual_pipeline is None else f" x VP {settings.chunks}"
        return (
            f"{model.layers} layers do not divide over PP {pipeline}{interleaved} (Megatron's rule)"
        )
    if settings.recompute_layers > model.layers // chunks:
        where = "stage" if settings.virtual_pipeline is None else "chunk"
        return f"a {where} has only {model.layers // chunks} layers to recompute"
    if workload.dtype == "float64":
        return "Megatron's optimizer takes float32 and bfloat16 parameters only"
    context = settings.context_parallel
    if context > 1 and workload.cluster.device == "cuda" and workload.dtype != "bfloat16":
        return "the flash attention of CUDA takes bfloat16 only"
    return None


ADAPTER = MegatronAdapter()

"""The settings of Megatron-Core in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sppo.config.workload import Workload

Recompute = Literal["none", "full", "block", "modules", "save-attention"]

CpCommType = Literal["p2p", "all_gather", "a2a", "a2a+p2p"]

MODULES = ("core_attn", "layernorm", "mlp")
"""Recompute modules of Megatron in a dense model without TransformerEngine."""

DEGREES = ("tensor_parallel", "pipeline_parallel", "context_parallel")


@dataclass(frozen=True, kw_only=True)
class MegatronSettings:
    """One layout; the remaining degree is data parallelism.

    virtual_pipeline: model chunks a rank, for the interleaved 1F1B schedule; None: one chunk.

    recompute: "full" saves each layer's input only; "block" does so in the first `recompute_layers`
    layers of each model chunk; "modules" recomputes the named modules of every layer.
    "save-attention" is ours and no option of Megatron: it recomputes all but attention in the first
    `recompute_layers` layers of each model chunk (0: all).

    transformer_engine: True builds Megatron's layer spec for TransformerEngine (`megatron-te`);
    None, and never False, its local spec. So older settings keep their key.

    cp_comm_type, cpu_offloading_layers, offload_modules: Megatron's own ways of context
    parallelism, of CPU offloading by layers and by modules. They need TransformerEngine's spec.
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    recompute_layers: int = 0
    recompute_modules: tuple[str, ...] = ()
    distributed_optimizer: bool = False
    virtual_pipeline: int | None = None
    cp_comm_type: CpCommType | None = None
    cpu_offloading_layers: int | None = None
    offload_modules: tuple[str, ...] | None = None
    transformer_engine: bool | None = None

    def __post_init__(self) -> None:
        for field in DEGREES:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1")
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise ValueError("sequence_parallel shards over tensor-parallel ranks: set it to false")
        self._check_recompute()
        self._check_virtual_pipeline()
        if self.cp_comm_type is not None and self.cp_comm_type not in get_args(CpCommType):
            raise ValueError(f"cp_comm_type must be one of {', '.join(get_args(CpCommType))}")
        if self.transformer_engine is False:
            raise ValueError("transformer_engine is true, or left out for Megatron's local spec")

    def _check_recompute(self) -> None:
        kind, layers = self.recompute, self.recompute_layers
        if kind not in get_args(Recompute):
            raise ValueError(f"recompute must be one of {', '.join(get_args(Recompute))}")
        if (kind == "block" and layers < 1) or (kind not in ("block", "save-attention") and layers):
            raise ValueError("recompute_layers is positive with recompute='block', else 0")
        if layers < 0:
            raise ValueError("recompute_layers must be at least 0 (0: all layers)")
        if (kind == "modules") != bool(self.recompute_modules):
            raise ValueError("recompute_modules is given with recompute='modules', else empty")
        unknown = set(self.recompute_modules) - set(MODULES)
        if unknown:
            raise ValueError(
                f"cannot recompute {', '.join(sorted(unknown))} here; known: {', '.join(MODULES)}"
            )

    def _check_virtual_pipeline(self) -> None:
        if self.virtual_pipeline is None:
            return
        if self.virtual_pipeline < 2:
            raise ValueError("virtual_pipeline must be at least 2 chunks a rank, or left out")
        if self.pipeline_parallel == 1:
            raise ValueError(
                "virtual_pipeline needs a pipeline (Megatron's rule: pipeline-model-parallel "
                "size should be greater than 1 with interleaved schedule)"
            )

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one replica of the model and one sequence."""
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel

    @property
    def chunks(self) -> int:
        """Model chunks a rank."""
        return self.virtual_pipeline or 1


def microbatch_group(pipeline_parallel: int, micro_batches: int) -> int | None:
    """Micro-batches that pass one model chunk before the next; None where they are too few.

    Megatron's rule for interleaving: every group has at least PP micro-batches, the last one too.
    The smallest such group holds the least memory; where PP divides, that is Megatron's default.
    """
    for size in range(pipeline_parallel, micro_batches + 1):
        last = micro_batches % size
        if last == 0 or last >= pipeline_parallel:
            return size
    return None


FLAGS = (
    *DEGREES,
    "virtual_pipeline",
    "no_sequence_parallel",
    "recompute",
    "zero",
    "cp_comm_type",
    "offload",
)
"""The flags of `sppo-bench emulate` for settings of Megatron."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> MegatronSettings:
    """The layout of the flags, without recomputation unless it is given. Raises ValueError."""
    built = layout_of_flags(given, workload)
    recompute = given.get("recompute", "none")
    if recompute.partition(":")[0] == "save-attention":
        raise ValueError(
            f"--recompute {recompute}: Megatron has no such option; megatron-ours adds it by a "
            "wrapper of ours"
        )
    if recompute.isdecimal():
        return MegatronSettings(**built, recompute="block", recompute_layers=int(recompute))
    if recompute in ("none", "full"):
        return MegatronSettings(**built, recompute=recompute)
    modules = tuple(recompute.split(","))
    return MegatronSettings(**built, recompute="modules", recompute_modules=modules)


def layout_of_flags(given: Mapping[str, Any], workload: Workload) -> dict[str, Any]:
    """The fields but for recomputation. Raises ValueError.

    With sequence parallelism where TP > 1, and ZeRO-1 where DP x CP > 1.
    """
    built: dict[str, Any] = {name: given.get(name, 1) for name in DEGREES}
    tensor, pipeline, _ = built.values()
    zero = given.get("zero", int(workload.cluster.ranks > tensor * pipeline))
    if zero not in (0, 1):
        raise ValueError(f"--zero {zero}: Megatron shards the optimizer (1) or does not (0)")
    built["distributed_optimizer"] = zero == 1
    built["sequence_parallel"] = tensor > 1 and "no_sequence_parallel" not in given
    chunks = given.get("virtual_pipeline")
    built["virtual_pipeline"] = None if chunks == 1 else chunks
    built["cp_comm_type"] = given.get("cp_comm_type")
    offload = given.get("offload")
    if offload is not None and offload.isdecimal():
        built["cpu_offloading_layers"] = int(offload)
    elif offload is not None:
        built["offload_modules"] = tuple(offload.split(","))
    return built

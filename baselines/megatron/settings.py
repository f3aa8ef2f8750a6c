"""The settings of Megatron-Core in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sppo.config.workload import Workload

Recompute = Literal["none", "full", "block", "modules"]

MODULES = ("core_attn", "mlp")
"""Recompute modules of Megatron in a dense model without TransformerEngine."""


@dataclass(frozen=True, kw_only=True)
class MegatronSettings:
    """One layout; the remaining degree is data parallelism.

    recompute: "full" saves each layer's input only; "block" does so in the first `recompute_layers`
    layers of each stage; "modules" recomputes the named modules of every layer.
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    context_parallel: int = 1
    sequence_parallel: bool = False
    recompute: Recompute = "none"
    recompute_layers: int = 0
    recompute_modules: tuple[str, ...] = ()
    distributed_optimizer: bool = False

    def __post_init__(self) -> None:
        for field in ("tensor_parallel", "pipeline_parallel", "context_parallel"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1")
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise ValueError("sequence_parallel shards over tensor-parallel ranks: set it to false")
        if self.recompute not in get_args(Recompute):
            raise ValueError(f"recompute must be one of {', '.join(get_args(Recompute))}")
        if (self.recompute == "block") != (self.recompute_layers > 0):
            raise ValueError("recompute_layers is positive with recompute='block', else 0")
        if (self.recompute == "modules") != bool(self.recompute_modules):
            raise ValueError("recompute_modules is given with recompute='modules', else empty")
        unknown = set(self.recompute_modules) - set(MODULES)
        if unknown:
            raise ValueError(
                f"cannot recompute {', '.join(sorted(unknown))} here; known: {', '.join(MODULES)}"
            )

    @property
    def model_ranks(self) -> int:
        """Ranks that hold one replica of the model and one sequence."""
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel


FLAGS = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "no_sequence_parallel",
    "recompute",
    "zero",
)
"""The flags of `sppo-bench emulate` for settings of Megatron."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> MegatronSettings:
    """With sequence parallelism where TP > 1, and ZeRO-1 where DP x CP > 1.

    Raises ValueError.
    """
    degrees = ("tensor_parallel", "pipeline_parallel", "context_parallel")
    built: dict[str, Any] = {name: given.get(name, 1) for name in degrees}
    tensor, pipeline, _ = built.values()
    zero = given.get("zero", int(workload.cluster.ranks > tensor * pipeline))
    if zero not in (0, 1):
        raise ValueError(f"--zero {zero}: Megatron shards the optimizer (1) or does not (0)")
    built["distributed_optimizer"] = zero == 1
    built["sequence_parallel"] = tensor > 1 and "no_sequence_parallel" not in given
    recompute = given.get("recompute", "none")
    if recompute.isdecimal():
        return MegatronSettings(**built, recompute="block", recompute_layers=int(recompute))
    if recompute in ("none", "full"):
        return MegatronSettings(**built, recompute=recompute)
    modules = tuple(recompute.split(","))
    return MegatronSettings(**built, recompute="modules", recompute_modules=modules)

"""What of Megatron-Core a row fixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Recompute = Literal["none", "full", "block", "modules"]

MODULES = ("core_attn", "mlp")
"""Recompute modules of Megatron that a dense model has and that need no TransformerEngine."""


@dataclass(frozen=True, kw_only=True)
class MegatronSettings:
    """One layout. What the three degrees leave of the ranks is data parallelism.

    recompute: "full" keeps each layer's input only; "block" does so in the first
    `recompute_layers` layers of each stage; "modules" recomputes the named parts of every layer.
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

"""The degrees of a peer's layout, under one set of names for all three peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PeerLayout:
    """Degrees of a grid point; recomputation left out.

    sequence_parallel: Ulysses. context_parallel: a ring, or Megatron's gathered K and V. Ranks are
    ordered TP, Ulysses, context, pipeline.
    """

    tensor_parallel: int = 1
    sequence_parallel: int = 1
    context_parallel: int = 1
    pipeline_parallel: int = 1
    virtual_pipeline: int = 1

    @property
    def ranks_of_a_stage(self) -> int:
        """Ranks that share a stage and a sequence."""
        return self.tensor_parallel * self.sequence_parallel * self.context_parallel

    @property
    def model_ranks(self) -> int:
        """Ranks that share a sequence: those of all stages."""
        return self.ranks_of_a_stage * self.pipeline_parallel

    @property
    def weight_shards(self) -> int:
        """Parts of the weights before any sharding over replicas."""
        return self.tensor_parallel * self.pipeline_parallel

    def __str__(self) -> str:
        names = (
            ("TP", self.tensor_parallel),
            ("Ulysses", self.sequence_parallel),
            ("context", self.context_parallel),
            ("PP", self.pipeline_parallel),
        )
        parts = [f"{name} {degree}" for name, degree in names if degree > 1] or ["one rank"]
        chunks = f", {self.virtual_pipeline} chunks" if self.virtual_pipeline > 1 else ""
        return " x ".join(parts) + chunks


def layout_of(settings: Any) -> PeerLayout:
    """The degrees of an adapter's settings."""
    ulysses = getattr(settings, "sequence_parallel", 1)
    return PeerLayout(
        tensor_parallel=getattr(settings, "tensor_parallel", 1),
        sequence_parallel=1 if isinstance(ulysses, bool) else ulysses,
        context_parallel=getattr(settings, "context_parallel", 1),
        pipeline_parallel=getattr(settings, "pipeline_parallel", 1),
        virtual_pipeline=getattr(settings, "virtual_pipeline", None) or 1,
    )

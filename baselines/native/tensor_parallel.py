"""TP with sequence parallelism as torchtitan applies them: torch's own styles, by module.

Products are split by column, then by row. Between them a rank has its heads or its MLP columns of
all tokens of its TP group; outside of them it has its own tokens. So a block gathers its tokens
twice, and reduces and scatters them twice. Embedding and head are split by the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
)
from torch.distributed.tensor.parallel.style import ParallelStyle

from sppo.config.models import Model

_TOKENS = Shard(1)
"""Of [1, tokens, ...]: each rank of a TP group has its own tokens."""


def plan_of(name: str, model: Model) -> ParallelStyle | Mapping[str, ParallelStyle]:
    """The plan of `parallelize_module` for a group of weights, by its canonical name."""
    match name:
        case "embedding":
            return RowwiseParallel(input_layouts=Replicate(), output_layouts=_TOKENS)
        case "final_norm":
            return SequenceParallel()
        case "head":
            # The logits stay split: `loss_parallel` takes them so.
            return ColwiseParallel(input_layouts=_TOKENS, use_local_output=False)
    return _plan_of_block(model)


def _plan_of_block(model: Model) -> Mapping[str, ParallelStyle]:
    into_mlp = ("gate", "up") if model.activation == "swiglu" else ("up",)
    return {
        "norm1": SequenceParallel(),
        # Its further arguments are plain tensors: cosines, sines, and what is kept.
        "attention": PrepareModuleInput(
            input_layouts=(_TOKENS, None, None, None),
            desired_input_layouts=(Replicate(), None, None, None),
        ),
        "attention.qkv": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=_TOKENS),
        "norm2": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=(_TOKENS,), desired_input_layouts=(Replicate(),)),
        **{f"mlp.{name}": ColwiseParallel() for name in into_mlp},
        "mlp.down": RowwiseParallel(output_layouts=_TOKENS),
    }


def by_rank(parts: Sequence[Tensor], degree: int) -> Tensor:
    """The rows of several matrices, so that equal shards have each rank's rows of all of them.

    Query, key and value are one matrix: without TP they lie one below the other.
    """
    shards = zip(*(part.chunk(degree) for part in parts), strict=True)
    return torch.cat([rows for shard in shards for rows in shard])

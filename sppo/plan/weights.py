"""The weights of a whole model: canonical names, shapes, and how a stage's ranks divide them (SP).

Every system loads these names; matrices (two axes) carry weight decay, vectors never do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from sppo.config.models import Model
from sppo.plan.blocks import CanonicalWeight, block_of

GATHERED_BLOCKS = 2
"""Blocks of a stage whose gathered matrices are on a rank at a time: one in use, one upcoming."""


def padded(elements: int, ranks: int) -> int:
    """Elements of a buffer that so many ranks can divide."""
    return -(-elements // ranks) * ranks


@lru_cache(maxsize=256)
def canonical_weights(model: Model) -> Mapping[str, CanonicalWeight]:
    """By name: the embedding, every block, the final norm and the head, divided by vocabulary."""
    vocabulary = CanonicalWeight((model.vocabulary, model.hidden), 0)
    weights = {"embedding.weight": vocabulary}
    for layer in range(model.layers):
        for name, weight in block_of(model).weights.items():
            weights[f"layers.{layer}.{name}"] = weight
    weights["final_norm.weight"] = CanonicalWeight((model.hidden,), None)
    if model.norm == "layernorm":
        weights["final_norm.bias"] = CanonicalWeight((model.hidden,), None)
    weights["head.weight"] = vocabulary
    return weights


def weight_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Canonical parameter names and shapes, [out, in] as torch's Linear has them."""
    return {name: weight.shape for name, weight in canonical_weights(model).items()}


def parameter_count(model: Model) -> int:
    """Elements of all weights of the model."""
    return sum(math.prod(shape) for shape in weight_shapes(model).values())


def shard_obstacle(
    model: Model, shards: int, degree: str = "SP", *, copied_kv_heads: bool = False
) -> str | None:
    """Why `shards` ranks cannot share a stage of this model, or None.

    `copied_kv_heads`: a KV head may be on several ranks, which share its query heads.
    """
    counts = (*block_of(model).shard_counts, ("vocabulary entries", model.vocabulary))
    for name, count in counts:
        copied = copied_kv_heads and name == "KV heads" and shards % count == 0
        if count % shards and not copied:
            return f"{count:,} {name} do not divide over {degree} {shards}"
    return None

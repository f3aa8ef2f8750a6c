"""Saved tensors: their bytes, and the tensors they are recomputed from. No torch.

Those of a block are in its description (`blocks/`), those of the head are here. `model/decoder.py`
tags the tensors it saves with their names, `offload/activation_store.py` looks up the decision by
name, and the planner counts their bytes. A test compares them with the tensors that autograd saves.

Source: paper fig. 9 for the list; the bytes are counted, not the paper's (it rounds to 36 h).

Three decisions are possible. A tensor is kept on the device, offloaded to the host tier and
reloaded, or recomputed in the backward from other saved tensors (`SavedTensor.recomputed_from`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sppo.config.models import Model

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

SavedTensorKey = tuple[int, str]
"""(index of the layer inside its chunk, name); the head's tensors use the count of layers."""

Recipe = Literal["norm", "linear", "activation", "mixer"]
"""How a saved tensor is recomputed: at the cost of this operation's forward."""

STATISTIC_BYTES = 4
"""Norm statistics and log-sum-exp are float32, except in a float64 model."""


@dataclass(frozen=True, kw_only=True)
class SavedTensor:
    """One named tensor: `elements` of the model's dtype and `statistics` of float32, per token.

    One forward makes it and one backward reads it (the paper's type 1, sec. 5.1). A tensor that all
    later subsequences read is the state of the block. `recipe` recomputes it from the saved tensors
    in `recomputed_from`, with a matrix product of `dense_flops` FLOPs per token. With Ulysses that
    exchanges `all_to_all` elements per token. Without a recipe it is kept on the device or
    offloaded.
    """

    name: str
    elements: int
    statistics: int = 0
    recipe: Recipe | None = None
    recomputed_from: tuple[str, ...] = ()
    dense_flops: int = 0
    all_to_all: int = 0

    def bytes(self, tokens: int, element_bytes: int) -> int:
        """Bytes for `tokens` tokens on all shards together."""
        statistic_bytes = max(STATISTIC_BYTES, element_bytes)
        return tokens * (self.elements * element_bytes + self.statistics * statistic_bytes)


def not_recomputable(name: str, *, elements: int = 0, statistics: int = 0) -> SavedTensor:
    """A saved tensor that the backward cannot recompute."""
    return SavedTensor(name=name, elements=elements, statistics=statistics)


def recomputable(name: str, elements: int, recipe: Recipe, *recomputed_from: str) -> SavedTensor:
    """A saved tensor that is recomputed without a matrix product."""
    return SavedTensor(name=name, elements=elements, recipe=recipe, recomputed_from=recomputed_from)


def product(name: str, width: int, inner: int, *recomputed_from: str) -> SavedTensor:
    """The output of a product with a matrix [width, inner]."""
    return SavedTensor(
        name=name,
        elements=width,
        recipe="linear",
        recomputed_from=recomputed_from,
        dense_flops=2 * width * inner,
    )


def exchanged(tensor: SavedTensor) -> SavedTensor:
    """The same tensor, whose recomputation exchanges all of it by all_to_all."""
    return replace(tensor, all_to_all=tensor.elements)


def norm_statistics(model: Model) -> int:
    """Numbers per token that a norm saves: mean and deviation, or the root mean square alone."""
    return 2 if model.norm == "layernorm" else 1


def head_saved_tensors(model: Model) -> tuple[SavedTensor, ...]:
    """Saved tensors of the head: the loss runs its backward tile by tile inside the forward.

    So no logits survive, only the gradient of the final norm's output (`head.gradient`).
    """
    return (
        not_recomputable("final_norm.input", elements=model.hidden),
        not_recomputable("final_norm.statistics", statistics=norm_statistics(model)),
        not_recomputable("head.gradient", elements=model.hidden),
    )


HEAD_OFFLOAD_ORDER = ("final_norm.input", "head.gradient")
"""The head's tensors that may be offloaded, behind those of the blocks."""

"""The tensors of a stage: their names, bytes, and who needs them. One table; no torch.

`model/decoder.py` tags the tensors it saves with these names, `offload/activation_store.py` decides
their fate by name, and the planner counts their bytes. A test compares this table with what
autograd really saves.

Shapes per subsequence of `l` tokens: h hidden, f MLP width, a query heads, all on one rank.
Source: paper fig. 9 for the list; the bytes are counted, not the paper's (it rounds to 36 h).

A unit has one of three fates: it is kept, it travels to the host tier and back, or it is dropped
and made again in the backward from other units (`Unit.made_from`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sppo.config.models import Model

LOSS_TILE_TOKENS = 2048
"""Tokens whose logits exist at the same time."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix, at least: else as many as queries."""

UnitKey = tuple[int, str]
"""(index of the layer inside its part, unit name of `saved_tensors.py`); the head's units use the
count of layers."""

Lifetime = Literal["prefix", "once"]
"""The paper's two types (sec. 5.1): "prefix" (type 0) is read by every later subsequence and stays
on the device; "once" (type 1) is read by one forward and one backward and may travel."""

Recipe = Literal["norm", "linear", "activation", "attention"]
"""How a unit is made again: its cost is that of this operation's forward."""

STATISTIC_BYTES = 4
"""Norm statistics and log-sum-exp are float32, except in a float64 model."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One named tensor: `elements` of the model's dtype and `statistics` of float32, per token.

    `made_from` names the units it can be made of again, by `recipe`; `dense_flops` counts the
    matrix product in that, per token. Without a recipe it must be kept or travel.
    """

    name: str
    lifetime: Lifetime
    elements: int
    statistics: int = 0
    recipe: Recipe | None = None
    made_from: tuple[str, ...] = ()
    dense_flops: int = 0

    def bytes(self, tokens: int, element_bytes: int) -> int:
        statistic_bytes = max(STATISTIC_BYTES, element_bytes)
        return tokens * (self.elements * element_bytes + self.statistics * statistic_bytes)


def layer_units(model: Model) -> tuple[Unit, ...]:
    """What one decoder block keeps for its backward, in the order in which it is made."""
    statistics = 2 if model.norm == "layernorm" else 1
    hidden, ffn = model.hidden, model.ffn
    gated = model.activation == "swiglu"
    wide = [_linear("mlp.up", ffn, hidden, "norm2.output")]
    if gated:
        wide.insert(0, _linear("mlp.gate", ffn, hidden, "norm2.output"))
    return (
        _kept("block.input", elements=hidden),
        _kept("norm1.statistics", statistics=statistics),
        _made("norm1.output", hidden, "norm", "block.input"),
        _linear("attention.query", hidden, hidden, "norm1.output"),
        _made("attention.output", hidden, "attention", "attention.query"),
        _kept("attention.logsumexp", statistics=model.heads),
        _linear("block.middle", hidden, hidden, "attention.output", "block.input"),
        _kept("norm2.statistics", statistics=statistics),
        _made("norm2.output", hidden, "norm", "block.middle"),
        *wide,
        _made("mlp.activation", ffn, "activation", *(unit.name for unit in wide)),
    )


def _kept(name: str, *, elements: int = 0, statistics: int = 0) -> Unit:
    return Unit(name=name, lifetime="once", elements=elements, statistics=statistics)


def _made(name: str, elements: int, recipe: Recipe, *made_from: str) -> Unit:
    return Unit(name=name, lifetime="once", elements=elements, recipe=recipe, made_from=made_from)


def _linear(name: str, width: int, inner: int, *made_from: str) -> Unit:
    """The output of a product with a matrix [width, inner]."""
    return Unit(
        name=name,
        lifetime="once",
        elements=width,
        recipe="linear",
        made_from=made_from,
        dense_flops=2 * width * inner,
    )


def kv_units(model: Model) -> tuple[Unit, ...]:
    """K and V of one block: they live from their forward to the end of the backward."""
    return (
        Unit(name="attention.key", lifetime="prefix", elements=model.kv_width),
        Unit(name="attention.value", lifetime="prefix", elements=model.kv_width),
    )


def head_units(model: Model) -> tuple[Unit, ...]:
    """What the last stage keeps: the loss runs its backward tile by tile inside the forward.

    So no logits survive, only the gradient of the final norm's output (`head.gradient`).
    """
    statistics = 2 if model.norm == "layernorm" else 1
    return (
        Unit(name="final_norm.input", lifetime="once", elements=model.hidden),
        Unit(name="final_norm.statistics", lifetime="once", elements=0, statistics=statistics),
        Unit(name="head.gradient", lifetime="once", elements=model.hidden),
    )


OFFLOAD_ORDER = (
    "mlp.activation",
    "mlp.up",
    "mlp.gate",
    "block.input",
    "block.middle",
    "norm1.output",
    "norm2.output",
    "attention.query",
    "attention.output",
    "final_norm.input",
    "head.gradient",
)
"""Which tensors of a block travel first: the largest, then those whose bytes are needed latest in
the backward. Statistics are too small to be worth a copy and stay."""

RECOMPUTE_CHEAP = ("norm1.output", "norm2.output", "mlp.activation")
"""Made again by reading and writing memory once: nearly free."""

RECOMPUTE_LEAN = (*RECOMPUTE_CHEAP, "mlp.up", "mlp.gate", "block.middle", "attention.query")
"""All but the block's input and the attention's output with its log-sum-exp: 4 h bytes a token
and layer in bfloat16 stay. Only linear layers are computed again, never attention."""

RECOMPUTE_FULL = (*RECOMPUTE_LEAN, "attention.output")
"""What Megatron's and DeepSpeed's block checkpointing drops, attention with it (its log-sum-exp is
as small as a statistic and stays). For comparison, never for speed."""

RECOMPUTE_LEVELS = ((), RECOMPUTE_CHEAP, RECOMPUTE_LEAN, RECOMPUTE_FULL)
"""From nothing to everything that can be made again."""


def offloadable(unit: Unit) -> bool:
    """Level 1 of the two-level management: is this tensor a candidate at all?"""
    return unit.lifetime == "once" and unit.name in OFFLOAD_ORDER

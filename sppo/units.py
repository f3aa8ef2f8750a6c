"""The tensors of a stage: their names, bytes, and who needs them. One table; no torch.

`model.py` tags the tensors it saves with these names, `activations.py` decides their fate by name,
and the planner counts their bytes. A test compares this table with what autograd really saves.

Shapes per subsequence of `l` tokens: h hidden, f MLP width, a query heads, all on one rank.
Source: paper fig. 9 for the list; the bytes are counted, not the paper's (it rounds to 36 h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sppo.workload import Model

Lifetime = Literal["prefix", "once"]
"""The paper's two types (sec. 5.1): "prefix" (type 0) is read by every later subsequence and stays
on the device; "once" (type 1) is read by one forward and one backward and may travel."""

STATISTIC_BYTES = 4
"""Norm statistics and log-sum-exp are float32, except in a float64 model."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One named tensor: `elements` of the model's dtype and `statistics` of float32, per token."""

    name: str
    lifetime: Lifetime
    elements: int
    statistics: int = 0

    def bytes(self, tokens: int, element_bytes: int) -> int:
        statistic_bytes = max(STATISTIC_BYTES, element_bytes)
        return tokens * (self.elements * element_bytes + self.statistics * statistic_bytes)


def layer_units(model: Model) -> tuple[Unit, ...]:
    """What one decoder block keeps for its backward, in the order in which it is made."""
    statistics = 2 if model.norm == "layernorm" else 1
    mlp = [Unit(name="mlp.up", lifetime="once", elements=model.ffn)]
    if model.activation == "swiglu":
        mlp.insert(0, Unit(name="mlp.gate", lifetime="once", elements=model.ffn))
    return (
        Unit(name="block.input", lifetime="once", elements=model.hidden),
        Unit(name="norm1.statistics", lifetime="once", elements=0, statistics=statistics),
        Unit(name="norm1.output", lifetime="once", elements=model.hidden),
        Unit(name="attention.query", lifetime="once", elements=model.hidden),
        Unit(name="attention.output", lifetime="once", elements=model.hidden),
        Unit(name="attention.logsumexp", lifetime="once", elements=0, statistics=model.heads),
        Unit(name="block.middle", lifetime="once", elements=model.hidden),
        Unit(name="norm2.statistics", lifetime="once", elements=0, statistics=statistics),
        Unit(name="norm2.output", lifetime="once", elements=model.hidden),
        *mlp,
        Unit(name="mlp.activation", lifetime="once", elements=model.ffn),
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
)
"""Which tensors of a block travel first: the largest, then those whose bytes are needed latest in
the backward. Statistics are too small to be worth a copy and stay."""


def offloadable(unit: Unit) -> bool:
    """Level 1 of the two-level management: is this tensor a candidate at all?"""
    return unit.lifetime == "once" and unit.name in OFFLOAD_ORDER

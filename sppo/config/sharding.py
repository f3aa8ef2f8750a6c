"""How a stage's weights are divided over the ranks that share it (the paper's SP). No torch.

Weights and heads are sharded, and so are the tokens between them, as Megatron's tensor parallelism
with sequence parallelism does it. Norms, and the biases that are added to sharded tokens, are whole
on every rank; their gradients are summed over the ranks once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from sppo.config.models import Model

ROWS = ("embedding", "head", "query", "key", "value", "up", "gate")
"""Weights (and biases) of which every rank has some outputs: heads, MLP columns, vocabulary."""

COLUMNS = ("attention.output.weight", "mlp.down.weight")
"""Weights of which every rank has some inputs; their products are summed over the ranks."""


@dataclass(frozen=True)
class Shard:
    """Which of so many equal shares a rank has."""

    index: int = 0
    count: int = 1


WHOLE = Shard()


def sharded_axis(name: str) -> int | None:
    """The axis along which a canonical weight is divided; None where every rank has all of it."""
    if name.endswith(COLUMNS):
        return 1
    return 0 if name.split(".")[-2] in ROWS else None


def shard_shape(name: str, shape: tuple[int, ...], shards: int) -> tuple[int, ...]:
    """The shape of one rank's shard of a canonical weight of that shape."""
    axis = sharded_axis(name)
    if axis is None:
        return shape
    assert shape[axis] % shards == 0, f"{name} does not divide over {shards} ranks"
    return tuple(
        extent // shards if number == axis else extent for number, extent in enumerate(shape)
    )


def shard_obstacle(model: Model, shards: int, degree: str = "SP") -> str | None:
    """Why a stage of this model cannot be divided over so many ranks, or None."""
    for what, count in (
        ("query heads", model.heads),
        ("KV heads", model.kv_heads),
        ("MLP columns", model.ffn),
        ("vocabulary entries", model.vocabulary),
    ):
        if count % shards:
            return f"{count:,} {what} do not divide over {degree} {shards}"
    return None

"""FLOPs and bytes + hardware profile -> seconds and nanoseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.cost_model.attention_times import attention_seconds, element_exchange_seconds
from sppo.cost_model.flops import head_flops_per_token
from sppo.cost_model.links import (
    Group,
    context_group,
    copies_group,
    gather_seconds,
    tensor_group,
)
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import PartShape, SubsequenceCost


class Gathered(NamedTuple):
    """Elements of a block's sharded weights on a rank that has gathered them, and the ranks."""

    elements: int
    copies: Group


WHOLE = Gathered(0, Group(1, 1, 1))
"""No weights are gathered."""


def gathered_of(shape: PartShape) -> Gathered:
    """The block's weights that the ranks of a chunk gather."""
    if not shape.sharded_weights:
        return WHOLE
    copies = copies_group(shape.shards, shape.weight_shards, shape.stages, shape.replicas)
    return Gathered(shape.gathered_elements, copies)


def part_cost(
    shape: PartShape, profile: Hardware, recomputed: tuple[str, ...], *, start: int, tokens: int
) -> SubsequenceCost:
    """Compute time of `tokens` tokens from position `start` on in a model chunk.

    The backward recomputes the saved tensors named in `recomputed`, in every layer.
    """
    positions = {
        "start": start,
        "tokens": tokens,
        "shards": shape.shards,
        "ulysses": shape.ulysses,
        "context": shape.context,
    }
    layers = len(shape.layers)
    block = block_seconds(
        shape.model,
        profile,
        gathered=gathered_of(shape),
        pieces=shape.exchange_pieces,
        **positions,
    )
    cost = block.part(layers, shape.head)
    recompute = layers * recompute_ns(shape.model, profile, recomputed, **positions)
    return SubsequenceCost(cost.forward_ns, cost.backward_ns + recompute)


@dataclass(frozen=True, kw_only=True)
class BlockSeconds:
    """One subsequence in one block, and in the head, in seconds."""

    forward: float
    backward: float
    head: float

    def part(self, layers: int, head: bool) -> SubsequenceCost:
        """The same for `layers` blocks, and the head where `head` is true."""
        forward = layers * self.forward + (self.head if head else 0.0)
        return SubsequenceCost(round(forward * 1e9), round(layers * self.backward * 1e9))


def block_seconds(
    model: Model,
    profile: Hardware,
    *,
    start: int,
    tokens: int,
    shards: int,
    ulysses: int = 1,
    context: int = 1,
    gathered: Gathered = WHOLE,
    pieces: int = 1,
) -> BlockSeconds:
    """Compute time of one block and of the head.

    The loss runs its backward inside its forward, so the whole head is charged to the forward.
    `shards` ranks share the work; groups of `ulysses` have the same weights, groups of `context`
    also the same heads. Their collectives are charged in full, as if nothing hid them; but of
    all-to-alls in several `pieces` those that attention does not hide. Rates are those of tokens /
    shards, the work of one device. gathered: a block's sharded weights.
    """
    return _block_seconds(
        model,
        profile,
        profile.rate,
        start=start,
        tokens=tokens,
        shards=shards,
        ulysses=ulysses,
        context=context,
        gathered=gathered,
        pieces=pieces,
    )


def cut_seconds(
    model: Model,
    profile: Hardware,
    lengths: Sequence[int],
    *,
    shards: int,
    ulysses: int,
    context: int,
    gathered: Gathered = WHOLE,
    pieces: int = 1,
) -> BlockSeconds:
    """`block_seconds` of all subsequences of a cut at once, as arrays [N].

    They are equal but for the last bits.
    """
    import numpy as np

    tokens = np.array(lengths, dtype=np.float64)
    return _block_seconds(
        model,
        profile,
        profile.rates_at,
        start=np.cumsum(tokens) - tokens,
        tokens=tokens,
        shards=shards,
        ulysses=ulysses,
        context=context,
        gathered=gathered,
        pieces=pieces,
    )


def _block_seconds(
    model: Model,
    profile: Hardware,
    rate: Callable[[Any, str], Any],
    *,
    start: Any,
    tokens: Any,
    shards: int,
    ulysses: int,
    context: int,
    gathered: Gathered,
    pieces: int,
) -> BlockSeconds:
    """Of one subsequence, or of arrays of starts and lengths. rate: FLOP/s by tokens and kind."""
    block = block_of(model)
    work = tokens // shards
    dense = block.dense_flops_per_token * tokens / shards
    exchange = _exchange_seconds(model, profile, tokens, shards, ulysses * context)
    gather = _kv_gather_seconds(model, profile, start + tokens, shards, context)
    size = profile.element_bytes
    wide = gradient_element_bytes(size) / size
    weights = gather_seconds(profile, gathered.copies, gathered.elements * size)
    dense_forward = rate(work, "dense_forward")
    attention = attention_seconds(
        model,
        profile,
        rate,
        start=start,
        tokens=tokens,
        shards=shards,
        ulysses=ulysses,
        context=context,
        pieces=pieces,
    )
    return BlockSeconds(
        forward=profile.layer_overhead_seconds
        + block.forward_exchanges * exchange
        + gather
        + weights
        + attention.forward
        + dense / dense_forward,
        backward=2 * profile.layer_overhead_seconds
        + block.backward_exchanges * exchange
        + (gather + weights) * (1 + wide)
        + attention.backward
        + 2 * dense / rate(work, "dense_backward"),
        head=2 * exchange + 3 * head_flops_per_token(model) * tokens / shards / dense_forward,
    )


def _exchange_seconds(
    model: Model, profile: Hardware, tokens: Any, shards: int, copies: int
) -> Any:
    """One all_gather, or one reduce_scatter, of hidden states between neighbours.

    They share the tokens of one of the `copies` of their weights in the stage.
    """
    size = tokens / copies * model.hidden * profile.element_bytes
    return gather_seconds(profile, tensor_group(shards // copies), size)


def _kv_gather_seconds(
    model: Model, profile: Hardware, positions: Any, shards: int, context: int
) -> Any:
    """One all_gather of K and V of so many positions over the ranks with the same heads."""
    elements = block_of(model).state_elements * positions / (shards // context)
    return gather_seconds(profile, context_group(shards, context), elements * profile.element_bytes)


def reduction_seconds(profile: Hardware, *, elements: int, copies: Group) -> float:
    """Seconds of a reduce_scatter of gradients and an all_gather of weights over their copies.

    Each copy has `elements`.
    """
    size = profile.element_bytes
    seconds: float = gather_seconds(profile, copies, elements * (size + max(4, size)))
    return seconds


def recompute_ns(
    model: Model,
    profile: Hardware,
    names: tuple[str, ...],
    *,
    start: int,
    tokens: int,
    shards: int = 1,
    ulysses: int = 1,
    context: int = 1,
) -> int:
    """Nanoseconds to recompute these saved tensors of one block, for one rank and subsequence.

    Matrix products run at the dense rate, the mixer at its own. Norms and activation functions run
    at the rate of the memory: everything they read and write, once.
    """
    seconds = 0.0
    block = block_of(model)
    saved_tensors = block.saved_tensors_by_name
    work = tokens // shards
    an_element = element_exchange_seconds(profile, tokens, shards, ulysses, context)
    for name in names:
        saved_tensor = saved_tensors[name]
        seconds += saved_tensor.all_to_all * an_element
        if saved_tensor.recipe == "linear":
            rate = profile.rate(work, "dense_forward")
            seconds += saved_tensor.dense_flops * tokens / shards / rate
            seconds += _exchange_seconds(model, profile, tokens, shards, ulysses * context)
        elif saved_tensor.recipe == "mixer":
            flops = block.mixer_flops(start, tokens) / shards
            seconds += flops / profile.rate(work, "attention_forward")
            seconds += _kv_gather_seconds(model, profile, start + tokens, shards, context)
        else:
            accessed = [name, *saved_tensor.recomputed_from]
            size = sum(saved_tensors[key].bytes(tokens, profile.element_bytes) for key in accessed)
            seconds += size / shards / profile.memory_bytes_per_second
    return round(seconds * 1e9)


def stage_link(profile: Hardware, ranks: int) -> tuple[float, float]:
    """Bytes/s and latency (s) of messages between stages of a pipeline of `ranks` ranks.

    Beyond one node every message is charged as one between nodes.
    """
    rate, latency = profile.internode_bytes_per_second, profile.internode_latency_seconds
    if ranks <= profile.ranks_per_node or rate is None or latency is None:
        return profile.p2p_bytes_per_second, profile.p2p_latency_seconds
    return rate, latency


def copy_ns(size_bytes: int, bytes_per_second: float, latency_seconds: float = 0.0) -> int:
    """Nanoseconds of one copy or message over a link; an empty one takes none."""
    if size_bytes == 0:
        return 0
    return round((latency_seconds + size_bytes / bytes_per_second) * 1e9)

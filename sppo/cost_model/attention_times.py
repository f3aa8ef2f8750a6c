"""Seconds of a block's attention with the all-to-alls around it, at once or in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.cost_model.links import all_to_all_seconds, ulysses_group
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import run_ends


class AttentionSeconds(NamedTuple):
    """Seconds of a block's attention with the all-to-alls around it."""

    forward: Any
    backward: Any


def attention_seconds(
    model: Model,
    profile: Hardware,
    rate: Callable[[Any, str], Any],
    *,
    start: Any,
    tokens: Any,
    shards: int,
    ulysses: int,
    context: int,
    pieces: int,
) -> AttentionSeconds:
    """Of one subsequence, or of arrays. Each piece is a kernel of its own, at its length's rate."""
    block, size = block_of(model), profile.element_bytes
    wide = gradient_element_bytes(size) / size
    ends = [tokens * over / under for over, under in run_ends(pieces)]
    lengths = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    elements = [
        element_exchange_seconds(profile, each, shards, ulysses, context) for each in lengths
    ]
    forward, backward = [], []
    for each, end in zip(lengths, ends, strict=True):
        work, flops = each // shards, block.mixer_flops(start + end - each, each) / shards
        forward.append(flops / rate(work, "attention_forward"))
        backward.append(2 * flops / rate(work, "attention_backward"))
    (qkv, output), (gradient, inputs) = block.forward_all_to_alls, block.backward_all_to_alls
    grads = gradient + block.backward_sums * wide
    return AttentionSeconds(
        exchanged_seconds([qkv * x for x in elements], forward, [output * x for x in elements]),
        exchanged_seconds(
            [grads * x for x in elements[::-1]],
            backward[::-1],
            [inputs * x for x in elements[::-1]],
        ),
    )


def exchanged_seconds(
    arriving: Sequence[Any], computes: Sequence[Any], leaving: Sequence[Any]
) -> Any:
    """From the first exchange to the last, of pieces in their order of compute.

    arriving, leaving: seconds of each piece's exchanges. One exchange runs at a time, in the order
    of `exchanged_pieces.py`: the next piece is under way while attention computes on a piece.
    """
    if len(computes) == 1:
        return arriving[0] + computes[0] + leaving[0]
    import numpy as np

    arrived = [arriving[0], arriving[0] + arriving[1]]
    link, end = arrived[1], 0.0
    for number, compute in enumerate(computes):
        end = np.maximum(end, arrived[number]) + compute
        link = np.maximum(link, end) + leaving[number]
        if number + 2 < len(computes):
            link = link + arriving[number + 2]
            arrived.append(link)
    return link


def element_exchange_seconds(
    profile: Hardware, tokens: Any, shards: int, ulysses: int, context: int
) -> Any:
    """An all_to_all of one element a token."""
    group = ulysses_group(shards, ulysses, context)
    return all_to_all_seconds(profile, group, tokens / shards * profile.element_bytes)

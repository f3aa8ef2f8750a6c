"""Copies of hosted K, V, dK and dV: of subsequences and of MSP slices. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sppo.config.hardware import Hardware
from sppo.config.models import Model
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.layout import Layout
from sppo.plan.msp import MspSplit
from sppo.plan.plan import Plan


@dataclass(frozen=True, kw_only=True)
class KvSpan:
    """Positions that a rank computes: `tokens` of a subsequence that begins at `start`.

    Where MSP splits the subsequence, `earlier` and `later` tokens are of slices before and after.
    adds_first: the rank's first backward in the chunk, where dK and dV begin as zeros on the
    device.
    """

    start: int
    tokens: int
    adds_first: bool
    earlier: int = 0
    later: int = 0


def kv_copy_seconds(
    model: Model, profile: Hardware, span: KvSpan, *, shards: int = 1
) -> tuple[float, float]:
    """Seconds that copies of hosted K, V, dK and dV add to a block's forward and backward.

    Forward: H2D of the prefix, D2H of the subsequence's own K and V. Backward: H2D of all four,
    D2H of the prefix's dK and dV. Where copies overlap, only the time beyond the mixer's counts.
    """
    block = block_of(model)
    width = block.state_elements / shards
    size = profile.element_bytes
    wide = 0 if span.adds_first else gradient_element_bytes(size)
    h2d, d2h = profile.h2d_bytes_per_second, profile.d2h_bytes_per_second
    subsequence = span.earlier + span.tokens + span.later
    read = span.start + span.earlier + span.tokens
    forward = (span.start * width * size / h2d, subsequence * width * size / d2h)
    backward = (
        (read * (size + wide) + span.later * wide) * width / h2d,
        span.start * width * gradient_element_bytes(size) / d2h,
    )
    if not profile.overlapped_copies:
        return sum(forward), sum(backward)
    work = span.tokens // shards
    flops = block.mixer_flops(span.start + span.earlier, span.tokens) / shards
    hidden_forward = flops / profile.rate(work, "attention_forward")
    hidden_backward = 2 * flops / profile.rate(work, "attention_backward")
    return max(0.0, max(forward) - hidden_forward), max(0.0, max(backward) - hidden_backward)


def kv_copied_bytes(model: Model, element_size: int, span: KvSpan, *, recomputed: bool) -> int:
    """Bytes of hosted K, V, dK and dV that one block copies for one subsequence, D2H and H2D.

    `recomputed`: the backward recomputes attention, and loads K and V once more.
    """
    wide = gradient_element_bytes(element_size)
    loaded = 0 if span.adds_first else wide
    own = (span.earlier + span.tokens) * (2 * element_size + loaded)
    later = span.later * (element_size + loaded)
    prefix = span.start * (2 * element_size + loaded + wide)
    read = span.start + span.earlier + span.tokens
    reloaded = read * element_size if recomputed else 0
    return block_of(model).state_elements * (own + later + prefix + reloaded)


def kv_span(layout: Layout, part: int, index: int, rank: int) -> KvSpan:
    """What a rank of a pipeline computes of a subsequence in a chunk."""
    start = layout.starts_tokens[index]
    last = index == layout.subsequences - 1
    row = layout.slices(part, index)
    place = layout.slice_of(part, index, rank)
    assert place is not None, "the rank computes nothing of it"
    if len(row) > 1 and rank != part % layout.pipeline_parallel:
        last = index == layout.split_of(part, index).subsequences[-1]
    return KvSpan(
        start=start,
        tokens=row[place].tokens,
        adds_first=last,
        earlier=sum(each.tokens for each in row[:place]),
        later=sum(each.tokens for each in row[place + 1 :]),
    )


def prefix_copies(split: MspSplit, layout: Layout, rank: int) -> tuple[int, int]:
    """Copies of (K and V, dK and dV) of all positions before a split, at one of its ranks.

    A helper copies what it receives D2H and what it sends H2D. The owner copies K and V H2D for
    each helper, and adds each helper's dK and dV to its own: H2D and D2H.
    """
    helpers = layout.helpers(split)
    if rank == split.part % layout.pipeline_parallel:
        return len(helpers), 2 * len(helpers)
    return 1, 1


def stage_kv_copied_bytes(plan: Plan, stage: int) -> int:
    """Bytes of K, V, dK and dV that one rank of a stage copies in a step, D2H and H2D."""
    if not plan.kv_block_tokens:
        return 0
    total = sum(_computes_bytes(plan, stage)) + sum(_prefix_bytes(plan, stage))
    return plan.sequences * total // plan.sequence_parallel


def _computes_bytes(plan: Plan, stage: int) -> Iterator[int]:
    saved_tensors = block_of(plan.model).saved_tensors_by_name
    for part in plan.parts_of(stage):
        for index in range(plan.subsequences):
            if plan.slice_of(part, index, stage) is None:
                continue
            names = plan.recomputed(part, index, stage)
            recomputed = any(saved_tensors[name].recipe == "mixer" for name in names)
            span = kv_span(plan, part, index, stage)
            copied = kv_copied_bytes(plan.model, plan.element_bytes, span, recomputed=recomputed)
            yield len(plan.parts[part].layer_range) * copied


def _prefix_bytes(plan: Plan, stage: int) -> Iterator[int]:
    size = plan.element_bytes
    wide = gradient_element_bytes(size)
    for split in plan.msp_splits:
        if stage in split.ranks:
            elements = len(plan.parts[split.part].layer_range)
            elements *= block_of(plan.model).state_elements
            elements *= plan.starts_tokens[split.subsequences[0]]
            states, sums = prefix_copies(split, plan, stage)
            yield elements * (states * size + sums * wide)

"""Temporaries of the block with attention, operation by operation. No torch.

And the untracked scratch of its kernels: their sizes follow from their blocks in torch's source.
"""

from __future__ import annotations

from collections.abc import Iterator

from sppo.config.models import Model
from sppo.plan.blocks.temporaries import (
    Placement,
    Recomputing,
    Span,
    StepPeak,
    TemporaryPeak,
    TokenBytes,
)

FORWARD_SPANS = {
    "norm1.output": Span(1, 7),
    "attention.query": Span(3, 5),
    "attention.logsumexp": Span(4, 5),
    "attention.output": Span(5, 10),
    "block.middle": Span(6, 10),
    "norm2.statistics": Span(7, 10),
    "norm2.output": Span(7, 10),
    "mlp.gate": Span(8, 9),
    "mlp.up": Span(8, 9),
    "mlp.activation": Span(9, 10),
}
"""1 norm, 2 its product, 3 RoPE, 4 attention, 5 its order, 6 its product, 7 norm, 8 to 10 MLP."""

BACKWARD_SPANS = {
    "mlp.activation": Span(1, 1),
    "mlp.up": Span(2, 2),
    "mlp.gate": Span(2, 2),
    "norm2.output": Span(3, 3),
    "norm2.statistics": Span(4, 4),
    "block.middle": Span(4, 4),
    "attention.output": Span(5, 6),
    "attention.query": Span(6, 6),
    "attention.logsumexp": Span(6, 6),
    "norm1.output": Span(7, 7),
    "norm1.statistics": Span(8, 8),
    "block.input": Span(8, 8),
}
"""1 to 3 MLP, 4 norm, 5 product of attention, 6 attention, 7 the product before it, 8 norm."""

ATTENTION_BACKWARD_STEP = 6

EARLY_READERS = {"norm1.output": "attention.query", "norm2.output": "mlp.up"}
"""A norm's output -> the saved tensor whose recomputation reads it early in a backward."""

CODED_ACTIVATIONS = ("gelu",)
"""Activation functions that oneDNN compiles for each shape, a forward and a backward."""

KEYS_PER_BLOCK = 512
"""Keys of a block of torch's attention on a CPU, forward and backward."""

QUERIES_PER_BLOCK = ((768, 256), (192, 64), (0, 32))
"""Least queries of a call, and how many it takes at a time: torch's attention on a CPU."""

ROUNDED_QUERIES = 128
"""A flash backward on CUDA rounds its queries up to a multiple."""


class _AttentionBytes(TokenBytes):
    """Those of attention as well.

    With context parallelism `pair` are a rank's own K and V, `pairs` those that it gathers, `sums`
    their dK and dV, and `sum` its own share of these.
    """

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        model = placement.model
        self.kv_width = model.kv_width
        self.key = model.kv_width * self.element
        self.sum = 2 * model.kv_width * self.precise if self.context > 1 else 0
        self.qkv = self.thin + 2 * self.key
        self.hosted_key = self.key if placement.hosted else 0
        self.hosted_gradient = model.kv_width * self.precise if placement.hosted else 0
        self.rotation = self.if_narrow(2 * self.thin_precise)  # RoPE of the queries in float32
        self.turns = model.head_width * self.precise * self.head_shards
        self.pair = 2 * self.key if self.context > 1 else 0
        self.pairs = self.context * self.pair
        self.sums = self.context * self.sum
        self.cloned_sums = self.sums if placement.clones else 0
        self.merged = (
            self.thin + self.if_narrow(2 * self.thin_precise) + 5 * model.heads * self.precise
        )


def forward_walk(placement: Placement) -> Iterator[StepPeak]:
    """A block's forward."""
    s = _AttentionBytes(placement)
    both = s.qkv + s.if_dealt(s.qkv) + 2 * s.hosted_key
    yield StepPeak(1, TemporaryPeak(s.norm_forward))
    yield StepPeak(2, TemporaryPeak(s.gathered + s.qkv))
    if s.exchanged:
        yield StepPeak(2, TemporaryPeak(3 * s.qkv))
    yield StepPeak(3, TemporaryPeak(both + s.rotation))
    if s.context > 1:
        yield StepPeak(3, TemporaryPeak(both + s.pair + s.pairs))
        yield StepPeak(4, TemporaryPeak(both + s.pairs + 2 * s.thin + s.merged))
        with_prefix = both + s.pairs + s.thin + s.merged
        two_ahead = 2 * (s.pair + s.pairs)
        yield StepPeak(4, TemporaryPeak(with_prefix, per_key=two_ahead, later=True))
    else:
        yield StepPeak(4, TemporaryPeak(both + s.thin + s.merged, later=True))
    yield StepPeak(5, TemporaryPeak(both + s.thin + s.if_exchanged(s.thin)))
    yield StepPeak(6, TemporaryPeak(s.gathered + s.cloned))
    yield StepPeak(7, TemporaryPeak(s.norm_forward))
    yield StepPeak(8, TemporaryPeak(s.gathered))
    yield StepPeak(9, TemporaryPeak(0))
    yield StepPeak(10, TemporaryPeak(s.gathered + s.cloned + s.thin))


def backward_walk(placement: Placement) -> Iterator[StepPeak]:
    """A block's backward, from its end."""
    s = _AttentionBytes(placement)
    gradients = s.wides * s.wide
    into = s.thin + s.gathered + s.whole + s.cloned + s.summed
    yield StepPeak(1, TemporaryPeak(s.thin + s.gathered + s.wide))
    yield StepPeak(1, TemporaryPeak(s.thin + s.gathered, fixed=s.product(s.ffn)))
    yield StepPeak(2, TemporaryPeak(s.thin + s.wide + gradients))
    yield StepPeak(3, TemporaryPeak(into + gradients, fixed=s.product(s.ffn)))
    yield StepPeak(4, TemporaryPeak(s.thin + s.norm_backward))
    into += s.received
    yield StepPeak(5, TemporaryPeak(s.received + s.thin + s.gathered + s.thin))
    yield StepPeak(5, TemporaryPeak(s.received + s.thin + s.gathered, fixed=s.product(s.hidden)))
    yield from _attention_backward(s)
    yield StepPeak(7, TemporaryPeak(into + s.qkv, fixed=s.product(s.hidden + 2 * s.kv_width)))
    yield StepPeak(8, TemporaryPeak(s.received + s.thin + s.norm_backward))


def _attention_backward(s: _AttentionBytes) -> Iterator[StepPeak]:
    """Blocks of the prefix, then RoPE's gradient; the residual's and the output's are there too."""
    outer = s.received + 2 * s.thin + 2 * s.hosted_key + 2 * s.hosted_gradient
    calls = outer + s.if_dealt(2 * s.thin)
    step = ATTENTION_BACKWARD_STEP
    if s.context > 1:
        yield from _gathered_backward(s, outer, calls)
    else:
        yield StepPeak(step, TemporaryPeak(calls + s.thin + 2 * s.key))
        yield StepPeak(step, TemporaryPeak(calls + s.thin + s.if_narrow(s.thin_precise)))
        yield StepPeak(
            step, TemporaryPeak(calls + s.thin_precise + s.thin, per_key=2 * s.key, later=True)
        )
    outer += s.thin_precise + s.qkv + s.turns + s.sum - 2 * s.hosted_key
    yield StepPeak(step, TemporaryPeak(outer + s.if_narrow(s.thin) + s.rotation))
    yield StepPeak(step, TemporaryPeak(outer + s.if_dealt(s.qkv) + s.if_exchanged(s.qkv)))


def _gathered_backward(s: _AttentionBytes, outer: int, calls: int) -> Iterator[StepPeak]:
    """Calls of attention on gathered K and V, and the sums of their dK and dV over the ranks.

    The next block of the prefix is on its way meanwhile.
    """

    def peak(per_token: int, per_key: int = 0, *, later: bool = False) -> StepPeak:
        at = TemporaryPeak(per_token, per_key=per_key, later=later)
        return StepPeak(ATTENTION_BACKWARD_STEP, at)

    own, ahead = s.pairs + s.sums, s.pair + s.pairs
    total = calls + own + s.thin_precise
    yield peak(calls + s.pair + s.pairs)
    yield peak(total + s.thin + s.pair)
    yield peak(total, 2 * ahead, later=True)
    yield peak(total + s.thin, ahead + own + s.pair, later=True)
    yield peak(total, ahead + s.sums + s.sum + s.cloned_sums, later=True)
    yield peak(outer + s.thin_precise + own + s.sum + s.cloned_sums)


def recomputing(placement: Placement) -> Recomputing:
    """Gradients that wait, and the temporaries of recomputing saved tensors."""
    s = _AttentionBytes(placement)
    wide = s.wides * s.wide
    late = s.received + s.thin
    waiting = {1: s.thin, 2: s.thin + s.wide, 3: s.thin + wide, 4: 2 * s.thin}
    waiting |= {5: late, 6: late + s.thin, 7: late + s.qkv, 8: late + s.thin}
    in_order = s.thin + s.if_dealt(s.thin)
    temporaries = {
        "norm1.output": s.norm_forward,
        "attention.query": s.gathered + in_order + s.if_exchanged(s.thin) + s.rotation,
        "attention.output": 2 * s.hosted_key
        + s.pair
        + s.pairs
        + s.thin
        + s.merged
        + s.if_exchanged(s.thin),
        "block.middle": s.gathered + s.cloned,
        "norm2.output": s.norm_forward,
        "mlp.gate": s.gathered,
        "mlp.up": s.gathered,
    }
    keys = {"attention.output": 2 * (s.pair + s.pairs)} if s.context > 1 else {}
    return Recomputing(waiting, temporaries, keys)


def kernel_scratch_bytes(
    model: Model,
    *,
    device: str,
    element_bytes: int,
    shards: int,
    context: int,
    queries: int,
    keys: int,
) -> int:
    """The scratch of torch's attention: the larger of a forward's and a backward's.

    On a CPU: the scores of a block, with their gradient in a backward, and with the block's output
    in a forward. On CUDA: the queries' gradient in float32 and two rows of it, and dK and dV of
    every head where heads share keys.
    """
    precise = max(4, element_bytes)
    if device == "cpu":
        rows = next(block for least, block in QUERIES_PER_BLOCK if queries >= least)
        forward = rows * (KEYS_PER_BLOCK + 2 + model.head_width)
        return max(forward, 2 * rows * KEYS_PER_BLOCK) * precise
    rounded = context * -(-queries // (context * ROUNDED_QUERIES)) * ROUNDED_QUERIES
    width = model.heads * (model.head_width + 2) * precise
    expanded = 0
    if model.kv_heads != model.heads:
        expanded = 2 * keys * model.hidden * element_bytes
    return -(-(rounded * width + expanded) // shards)

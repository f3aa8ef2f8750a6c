"""The description of a decoder block that everything generic reads. No torch.

It is of one model's whole block: degrees of parallelism are not in it. Names of weights have no
`layers.{i}.` in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from sppo.plan.blocks.temporaries import Placement, Recomputing, Span, StepPeak
from sppo.plan.saved_tensors import SavedTensor


def causal_pairs(start: int, tokens: int) -> int:
    """(query, key) pairs of a subsequence of `tokens` that begins at position `start`."""
    return tokens * start + tokens * (tokens + 1) // 2


class CanonicalWeight(NamedTuple):
    """A parameter as every system loads it: [out, in] as torch's Linear has it, or a vector.

    Ranks of a stage divide it along `sharded_axis`; None where each has all of it. Along 0 a rank
    has some of the outputs, along 1 some of the inputs, and products are summed over the ranks.
    """

    shape: tuple[int, ...]
    sharded_axis: int | None

    def shard_shape(self, shards: int) -> tuple[int, ...]:
        """The shape of one rank's shard."""
        axis = self.sharded_axis
        if axis is None:
            return self.shape
        assert self.shape[axis] % shards == 0, f"{self.shape} does not divide over {shards} ranks"
        return tuple(
            extent // shards if number == axis else extent
            for number, extent in enumerate(self.shape)
        )


class StateTensor(NamedTuple):
    """A tensor that every later subsequence reads (the paper's type 0): `elements` a token.

    It has the model's dtype; its gradient is float32 or wider. It lives from its forward to the end
    of the backward.
    """

    name: str
    elements: int


def gradient_element_bytes(element_bytes: int) -> int:
    """Gradients are summed in float32, except in a float64 model."""
    return max(4, element_bytes)


class KernelScratch(Protocol):
    """Bytes that kernels take untracked: `queries` tokens of a subsequence against `keys`."""

    def __call__(
        self,
        *,
        device: str,
        element_bytes: int,
        shards: int,
        context: int,
        queries: int,
        keys: int,
    ) -> int: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockSpec:
    """The description of a decoder block.

    Weights. `weights`: by name, in the order in which every system makes them. `joint_weights`:
    name of a matrix that is stored as the row-wise concatenation of these. `paired_weights`: their
    rows are stored in pairs that turn together. `shard_counts`: what the ranks of a stage divide,
    in words, and how many there are.

    Saved tensors. `saved_tensors`: those of a block for its backward, in the order of the
    forward. `offload_order`: those offloaded first. `recompute_cheap`: those recomputed by reading
    and writing memory once. `recompute_mlp`: those, and the MLP's products. `recompute_lean`:
    those, and all that take products but not the mixer. `recompute_full`: everything that can be
    recomputed. Names the block does not have are ignored.

    FLOPs of a forward. `mixer_flops_per_pair`: of the mixer for each (query, key) pair; 0 where
    its state does not grow. `forward_exchanges`, `backward_exchanges`: all_gathers and
    reduce_scatters of a subsequence's hidden states over the ranks that divide the weights.
    `forward_all_to_alls`, `backward_all_to_alls`: elements per token of each Ulysses all_to_all.
    `backward_sums`: numbers per token of one more, in the dtype of gradients; 0 for none.

    Temporaries. A block's forward and backward are steps, counted from 1. `forward_spans`,
    `backward_spans`: the steps that hold each saved tensor. `forward_walk`, `backward_walk`: the
    temporary peaks of every step. `recomputing`: the temporaries of recomputing. `early_readers`:
    saved tensor -> one whose recomputation reads it early in a backward. `mixer_backward_step`: the
    step of the mixer's gradient. `kernel_scratch_bytes`: untracked scratch of kernels.
    `compiled_kernels`: how many oneDNN compiles for each shape.

    State. `state`: the tensors that later subsequences read, in `state_heads` heads. A backward
    reads them in blocks of `prefix_block_tokens` tokens, or of the subsequence's length if it is
    longer. `position_numbers`: float32 numbers of each position that all blocks of a stage share.
    """

    weights: Mapping[str, CanonicalWeight]
    joint_weights: Mapping[str, tuple[str, ...]]
    paired_weights: tuple[str, ...]
    shard_counts: tuple[tuple[str, int], ...]
    saved_tensors: tuple[SavedTensor, ...]
    offload_order: tuple[str, ...]
    recompute_cheap: tuple[str, ...]
    recompute_mlp: tuple[str, ...]
    recompute_lean: tuple[str, ...]
    recompute_full: tuple[str, ...]
    mixer_flops_per_pair: int
    forward_exchanges: int
    backward_exchanges: int
    forward_all_to_alls: tuple[int, ...]
    backward_all_to_alls: tuple[int, ...]
    backward_sums: int
    forward_spans: Mapping[str, Span]
    backward_spans: Mapping[str, Span]
    forward_walk: Callable[[Placement], Iterator[StepPeak]]
    backward_walk: Callable[[Placement], Iterator[StepPeak]]
    recomputing: Callable[[Placement], Recomputing]
    early_readers: Mapping[str, str]
    mixer_backward_step: int
    kernel_scratch_bytes: KernelScratch
    compiled_kernels: int
    state: tuple[StateTensor, ...]
    state_heads: int
    prefix_block_tokens: int
    position_numbers: int

    @cached_property
    def dense_flops_per_token(self) -> int:
        """Forward FLOPs of the products with weights: a multiply-add is two."""
        matrices = [weight.shape for weight in self.weights.values() if len(weight.shape) == 2]
        return 2 * sum(map(math.prod, matrices))

    def mixer_flops(self, start: int, tokens: int) -> int:
        """Forward FLOPs of the mixer for `tokens` tokens from position `start` on, causal."""
        return self.mixer_flops_per_pair * causal_pairs(start, tokens)

    @cached_property
    def state_elements(self) -> int:
        """Elements of the state per token; its gradients have as many."""
        return sum(tensor.elements for tensor in self.state)

    def state_bytes(self, element_bytes: int) -> int:
        """Bytes of the state and of its gradients, per token."""
        return self.state_elements * (element_bytes + gradient_element_bytes(element_bytes))

    @cached_property
    def saved_tensors_by_name(self) -> Mapping[str, SavedTensor]:
        """`saved_tensors` by name, in the same order."""
        return {tensor.name: tensor for tensor in self.saved_tensors}

    @property
    def recompute_levels(self) -> tuple[tuple[str, ...], ...]:
        """From nothing to everything that can be recomputed."""
        return (
            (),
            self.recompute_cheap,
            self.recompute_mlp,
            self.recompute_lean,
            self.recompute_full,
        )

    @cached_property
    def stored_weights(self) -> Mapping[str, tuple[str, ...]]:
        """Parameter as a rank stores it -> the weights it is the row-wise concatenation of."""
        joint_names = {
            source: (joint, sources)
            for joint, sources in self.joint_weights.items()
            for source in sources
        }
        stored: dict[str, tuple[str, ...]] = {}
        for name in self.weights:
            linear, kind = name.rsplit(".", 1)
            joint, sources = joint_names.get(linear, (linear, (linear,)))
            stored.setdefault(f"{joint}.{kind}", tuple(f"{source}.{kind}" for source in sources))
        return stored

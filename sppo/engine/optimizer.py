"""AdamW over flat buffers, divided over the ranks with the same weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sppo.comm.collectives import Team
from sppo.config.workload import Optimizer
from sppo.model.weights import StageWeights

FLOAT64_CHUNK = 2**24
"""Elements per partial norm in float64: 128 MiB of copies."""

NORM_CHUNK = 16_384
"""Elements per partial norm: one float32 sum over a whole stage loses the fifth digit."""


def square_by_chunks(values: Tensor) -> Tensor:
    """Sum of squares of a flat tensor, float64 scalar, by norms in the tensor's own dtype."""
    norms = torch.stack(torch._foreach_norm(values.split(NORM_CHUNK)))
    return norms.double().square().sum()


def square_in_float64(values: Tensor) -> Tensor:
    """The same by few chunks, because tens of thousands of kernels would keep the host busy.

    A norm in float64 makes a float64 copy of its input, here of one chunk at a time.
    """
    chunks = values.split(FLOAT64_CHUNK)
    norms = [torch.linalg.vector_norm(chunk, dtype=torch.float64) for chunk in chunks]
    return torch.stack(norms).square().sum()


class FlatAdamW:
    """AdamW over a stage's flat buffers; float32 state, and float32 masters for bfloat16 weights.

    `copies` are the ranks with the same weights: Ulysses and context ranks of a stage, in all
    replicas. They share the state (ZeRO-1). Each updates one equal piece of every buffer, and an
    all_gather of the weights follows. Of sharded blocks a rank has one piece anyway; their
    gradients are summed in the backward, and their weights gathered when used.
    """

    def __init__(self, weights: StageWeights, recipe: Optimizer, copies: Team) -> None:
        self.copies = copies
        self.weights = weights
        self._flat = [weights.matrices, weights.vectors]
        self._gradients = [weights.matrix_gradients, weights.vector_gradients]
        if not weights.matrices.numel():  # all matrices are in sharded blocks
            self._flat, self._gradients = self._flat[1:], self._gradients[1:]
        self._working = [self._piece(flat) for flat in self._flat]
        self._pieces = [self._piece(gradient) for gradient in self._gradients]
        if weights.blocks is not None:
            self._working.insert(0, weights.blocks.pieces.view(-1))
            self._pieces.insert(0, weights.blocks.piece_gradients.view(-1))
        precision = weights.vector_gradients.dtype
        self.masters = [nn.Parameter(working.to(precision)) for working in self._working]
        for master, piece in zip(self.masters, self._pieces, strict=True):
            master.grad = piece
        groups = [
            {"params": self.masters[:-1], "weight_decay": recipe.weight_decay},
            {"params": self.masters[-1:], "weight_decay": 0.0},
        ]
        betas, epsilon = (recipe.beta1, recipe.beta2), recipe.epsilon
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=betas, eps=epsilon, fused=True
        )
        self._shared = self.masters[0].dtype == weights.matrices.dtype

    def _piece(self, flat: Tensor) -> Tensor:
        """This rank's piece of a buffer, a view."""
        return flat.chunk(self.copies.size)[self.copies.index]

    def reduce(self, shards: Team) -> None:
        """Sum the gradients: over the shards where weights are not divided, then over the copies.

        Afterwards this rank's pieces are those of the whole step.
        """
        if shards.size > 1:
            shards.all_reduce(self.weights.vector_gradients[: self.weights.whole_elements])
        if self.copies.size > 1:
            whole = len(self._gradients)
            for gradient, piece in zip(self._gradients, self._pieces[-whole:], strict=True):
                self.copies.reduce_scatter(gradient, into=piece).wait()

    def squared_norm(self, shards: Team) -> Tensor:
        """Sum of squares of this rank's gradients, float64 scalar.

        The sum over all ranks is the model's. Only the first shard counts undivided weights.
        """
        *matrices, vectors = self._pieces
        if shards.index:
            before = self.copies.index * vectors.numel()
            vectors = vectors[max(0, self.weights.whole_elements - before) :]
        square = square_in_float64 if vectors.is_cuda else square_by_chunks
        total = square(vectors)
        for each in matrices:
            total = square(each) + total
        return total

    def step(self, factor: float) -> None:
        """Update the weights with gradients scaled by `factor`, that of the global-norm clip."""
        if factor < 1.0:
            for piece in self._pieces:
                piece.mul_(factor)
        self.optimizer.step()
        if not self._shared:
            for working, master in zip(self._working, self.masters, strict=True):
                working.copy_(master.detach())
        if self.copies.size > 1:
            whole = len(self._flat)
            for flat, working in zip(self._flat, self._working[-whole:], strict=True):
                self.copies.all_gather(working, into=flat).wait()

    def tensors(self) -> list[Tensor]:
        """AdamW's state, and masters where they are no views of the weights."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        states = [value for value in values if isinstance(value, Tensor)]
        return states if self._shared else [*states, *self.masters]

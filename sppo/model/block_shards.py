"""Weights of blocks in pieces: each rank with the same weights keeps one, and gathers a block's.

A block's matrices are gathered for its forward, and again for its backward. After the backward the
gradients are summed and divided (ZeRO-3, arXiv 1910.02054, sec. 5.3). The next block's gather runs
beside a block's compute. Embedding, head and vectors are whole on every rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sppo.comm.collectives import CollectiveWork, Team
from sppo.plan.weights import GATHERED_BLOCKS, padded

Load = Callable[[str], Tensor]
"""A parameter of this rank by name, as the stage stores it."""


Block = Callable[[Tensor], Tensor]
"""The forward of a block."""


class BlockShards:
    """The matrices of a stage's blocks in pieces, and buffers of the blocks in use.

    layers: numbers of the stage's layers. shapes: of a layer's matrices on a rank that has all of
    them, by the name inside the layer. copies: the ranks with the same weights.

    pieces, piece_gradients: [layers, elements / copies]. values, gradients: [buffers, elements] of
    whole blocks; neighbouring layers are in different buffers.
    """

    def __init__(
        self,
        layers: Sequence[int],
        shapes: Mapping[str, tuple[int, ...]],
        copies: Team,
        device: torch.device,
        dtype: torch.dtype,
        gradient_dtype: torch.dtype,
    ) -> None:
        self.layers = tuple(layers)
        self.copies = copies
        self._shapes = shapes
        elements = padded(sum(map(math.prod, shapes.values())), copies.size)
        buffers = min(GATHERED_BLOCKS, len(layers))
        piece = len(layers), elements // copies.size
        self.pieces = torch.empty(piece, device=device, dtype=dtype)
        self.piece_gradients = torch.zeros(piece, device=device, dtype=gradient_dtype)
        self.values = torch.zeros(buffers, elements, device=device, dtype=dtype)
        self.gradients = torch.zeros(buffers, elements, device=device, dtype=gradient_dtype)
        self._rows = {layer: row for row, layer in enumerate(layers)}
        self._gathers: dict[int, CollectiveWork] = {}
        # By buffer: the sum in flight there, and the row of its layer.
        self._sums: dict[int, tuple[CollectiveWork, int]] = {}

    def _buffer(self, layer: int) -> int:
        return self._rows[layer] % len(self.values)

    def views(self, layer: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, value and gradient of a layer's matrices, in the buffers of whole blocks."""
        values, gradients = self.values[self._buffer(layer)], self.gradients[self._buffer(layer)]
        start = 0
        for name, shape in self._shapes.items():
            span = slice(start, start + math.prod(shape))
            start = span.stop
            yield name, values[span].view(shape), gradients[span].view(shape)

    def load(self, layer: int, load: Load) -> None:
        """Set this rank's piece of a layer."""
        for name, value, _ in self.views(layer):
            value.copy_(load(f"layers.{layer}.{name}"))
        whole = self.values[self._buffer(layer)]
        self.pieces[self._rows[layer]].copy_(whole.chunk(self.copies.size)[self.copies.index])

    def use(self, layer: int, upcoming: int | None) -> None:
        """Before the compute of a layer: its matrices are there, the upcoming ones are gathered."""
        self._gather(layer).wait()
        del self._gathers[layer]
        if upcoming is not None:
            self._gather(upcoming)

    def _gather(self, layer: int) -> CollectiveWork:
        if layer not in self._gathers:
            piece, whole = self.pieces[self._rows[layer]], self.values[self._buffer(layer)]
            self._gathers[layer] = self.copies.all_gather(piece, into=whole)
        return self._gathers[layer]

    def begin_backward(self, layer: int, upcoming: int | None) -> None:
        """Before the backward of a layer: the same, with gradients of zero."""
        self.use(layer, upcoming)
        self._end_sum(self._buffer(layer))
        self.gradients[self._buffer(layer)].zero_()

    def end_backward(self, layer: int) -> None:
        """After it: the gradients are summed over the copies beside the next layer's backward."""
        buffer = self._buffer(layer)
        whole = self.gradients[buffer]
        own = whole.chunk(self.copies.size)[self.copies.index]
        self._sums[buffer] = self.copies.reduce_scatter(whole, into=own), self._rows[layer]

    def _end_sum(self, buffer: int) -> None:
        if buffer in self._sums:
            work, row = self._sums.pop(buffer)
            self.piece_gradients[row].add_(work.wait())

    def end_sums(self) -> None:
        """After the backward of a chunk: all gradients are in the pieces."""
        for buffer in sorted(self._sums):
            self._end_sum(buffer)

    @property
    def is_idle(self) -> bool:
        """Whether no gather and no sum is in flight."""
        return not self._gathers and not self._sums

    def abort(self) -> None:
        """After an error: forget what is in flight. No further step may follow."""
        self._gathers.clear()
        self._sums.clear()

    def around(self, block: Block, x: Tensor, layer: int, layers: range) -> Tensor:
        """block(x) of one of a chunk's `layers`; its matrices are there when they are used."""
        above = layer + 1 if layer + 1 in layers else None
        below = layer - 1 if layer - 1 in layers else None
        self.use(layer, above)
        x = _Boundary.apply(x, lambda: self.end_backward(layer))
        output: Tensor = _Boundary.apply(block(x), lambda: self.begin_backward(layer, below))
        return output


class _Boundary(torch.autograd.Function):
    """The identity; the backward calls a function first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before_backward: Callable[[], None]) -> Tensor:
        ctx.before_backward = before_backward
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.before_backward()
        return grad, None

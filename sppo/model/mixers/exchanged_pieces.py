"""Attention of one subsequence in pieces: one piece is exchanged while attention computes another.

Around attention Ulysses ranks exchange tokens for heads. Exchanged at once, nothing hides it. In
G pieces, only the first piece must arrive and the last must leave before and after all compute. A
piece is a run of the subsequence's tokens, on every rank. Its queries attend to the piece itself,
to the earlier pieces, and to the prefix. The backward takes the pieces from the last to the first,
so that dK and dV of a piece are complete when its gradients leave.

At most one piece is on its way to each side of attention, so less memory is taken than at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sppo.comm.collectives import CollectiveWork, as_gathered, in_order
from sppo.comm.stage_ranks import StageRanks
from sppo.kernels.attention import scales_of_output
from sppo.model.mixers.flash_blocks import attend, attend_backward
from sppo.model.mixers.kv_block import KvBlock, KvPair, span
from sppo.model.mixers.layer_cache import LayerCache
from sppo.model.mixers.rotary import rotate_into, split_heads

Work = TypeVar("Work")
"""One exchange in flight, or several."""


class Piece(NamedTuple):
    """A run of rows of every rank, and of the tokens [first, end) of this context rank."""

    rows: slice
    first: int
    end: int

    @property
    def tokens(self) -> int:
        """Tokens of the piece on this context rank."""
        return self.end - self.first


class Saved(NamedTuple):
    """Rotated queries [heads, l, D], output [l / U, U heads D] and log-sum-exp [1, heads, l]."""

    rotated: Tensor
    result: Tensor
    logsumexp: Tensor


def pieces_of(rows: int, ranks: StageRanks) -> list[Piece]:
    """The pieces of a subsequence with `rows` rows [l / U] on this rank."""
    each = ranks.head_ranks
    runs = ranks.runs(rows // ranks.shards.size)
    return [Piece(run, each * run.start, each * run.stop) for run in runs]


def attend_in_pieces(
    qkv: Tensor,
    turns: Tensor,
    widths: Sequence[int],
    cache: LayerCache,
    start: int,
    ranks: StageRanks,
) -> Saved:
    """The forward of `PrefixAttention`: turns complex [l, D / 2] of this context rank's tokens."""
    pieces, width = pieces_of(qkv.shape[0], ranks), 2 * turns.shape[-1]
    columns = widths[0]
    heads = columns // ranks.ulysses.size // width
    tokens = pieces[-1].end
    rotated = qkv.new_empty(heads, tokens, width)
    logsumexps: list[Tensor] = []
    own: list[list[KvPair]] = []
    leaving = Leaving((qkv.shape[0], columns), [columns], ranks)

    def begin(piece: Piece) -> CollectiveWork:
        return ranks.begin_for_heads(ranks.run_of(qkv, piece.rows), widths)

    for piece, work in _one_ahead(pieces, begin):
        flat = in_order(work.wait(), ranks.head_ranks)
        query, key, value = split_heads(flat, width, cache.kv_heads)
        rows = slice(piece.first, piece.end)
        rotate_into(query, turns[rows], rotated[:, rows])
        own.append(_placed(key, value, turns[rows], cache, start, piece, ranks))
        del flat, query, key, value, work
        earlier = chain.from_iterable(own[:-1])
        prefix = chain(earlier, cache.prefix(start, piece.tokens))
        out, logsumexp = attend(rotated[:, rows], own[-1], prefix, ranks.context.index)
        logsumexps.append(logsumexp)
        by_token = as_gathered(out.squeeze(0).transpose(0, 1), ranks.head_ranks)
        del out
        leaving.begin(piece, by_token.reshape(piece.tokens, -1))
        del by_token
    return Saved(rotated, leaving.end(qkv), torch.cat(logsumexps, 2))


def attend_in_pieces_backward(
    grad: Tensor,
    saved: Saved,
    turns: Tensor,
    widths: Sequence[int],
    cache: LayerCache,
    start: int,
    ranks: StageRanks,
) -> Tensor:
    """Gradient of qkv [l / U, w] from that of the output [l / U, U heads D], likewise."""
    rotated, result, logsumexp = saved
    grad = grad.contiguous()
    pieces, width = pieces_of(grad.shape[0], ranks)[::-1], rotated.shape[2]
    own = OwnGradients(cache, start, rotated.shape[1], pieces, ranks)
    leaving = Leaving((grad.shape[0], sum(widths)), widths, ranks)

    def begin(piece: Piece) -> tuple[CollectiveWork, CollectiveWork]:
        rows = ranks.run_of(grad, piece.rows)
        by_head = (x.unflatten(-1, (-1, width)) for x in (rows, ranks.run_of(result, piece.rows)))
        scales = scales_of_output(*by_head).squeeze(-1)
        return (
            ranks.begin_for_heads(scales, [scales.shape[1]]),
            ranks.begin_for_heads(rows, [rows.shape[1]]),
        )

    for piece, works in _one_ahead(pieces, begin):
        scales, arrived = (_by_head(work.wait(), rotated.shape[0], ranks) for work in works)
        output = torch.mul(arrived, scales, out=torch.empty_like(arrived))
        rows = slice(piece.first, piece.end)
        query_gradient = attend_backward(
            arrived,
            rotated[:, rows].unsqueeze(0),
            output,
            logsumexp[:, :, rows].contiguous(),
            own.of(piece),
            chain(own.before(piece), cache.prefix_gradients(start, piece.tokens)),
            ranks.context.index,
        ).squeeze(0)
        del scales, arrived, output, works
        key_sums, value_sums = own.sums(piece)
        kinds = rotated.shape[0] + 2 * cache.kv_heads
        gradient = grad.new_empty(piece.tokens, kinds * width)
        query, key, value = split_heads(gradient, width, cache.kv_heads)
        turns_back = turns[rows].conj_physical()
        rotate_into(query_gradient.to(grad.dtype), turns_back, query)
        rotate_into(key_sums.to(grad.dtype), turns_back, key)
        value.copy_(value_sums)
        del query_gradient, key_sums, value_sums, query, key, value, turns_back
        leaving.begin(piece, as_gathered(gradient, ranks.head_ranks))
        del gradient
    return leaving.end(grad)


class Leaving:
    """Pieces on their way from heads to tokens, one at a time, and the rows that they go to.

    shape: of these rows [l / U, w], whose columns are blocks of `widths`. Memory for them is taken
    when the first piece has arrived.
    """

    def __init__(self, shape: tuple[int, int], widths: Sequence[int], ranks: StageRanks) -> None:
        self.shape = shape
        self.widths = widths
        self.ranks = ranks
        self._into: Tensor | None = None
        self._last: tuple[slice, CollectiveWork] | None = None

    def begin(self, piece: Piece, rows: Tensor) -> None:
        """Send a piece, after the one before has arrived."""
        if self._last is not None:
            self._arrive(rows)
        self._last = piece.rows, self.ranks.ulysses.all_to_all(rows)

    def end(self, like: Tensor) -> Tensor:
        """All rows, after the last piece has arrived. like: a tensor of their device and dtype."""
        return self._arrive(like)

    def _arrive(self, like: Tensor) -> Tensor:
        assert self._last is not None, "a piece is on its way"
        (run, work), self._last = self._last, None
        if self._into is None:
            self._into = like.new_empty(self.shape)
        self.ranks.put_run(self._into, run, work, self.widths)
        return self._into


class OwnGradients:
    """K and V of a subsequence by piece, with the accumulators of their gradients.

    pieces: in the order of the backward. A rank of a context gathers those of each piece.
    """

    def __init__(
        self,
        cache: LayerCache,
        start: int,
        tokens: int,
        pieces: Sequence[Piece],
        ranks: StageRanks,
    ) -> None:
        self.cache = cache
        self.blocks: dict[int, list[KvBlock]] = {}
        self.divided = ranks.context.size > 1
        self.starts = {piece.first: start + ranks.context.size * piece.first for piece in pieces}
        if self.divided:
            for piece in pieces:
                first = self.starts[piece.first]
                self.blocks[piece.first] = cache.own_gradients(first, piece.tokens)
        else:
            (whole,) = cache.own_gradients(start, tokens)
            for piece in pieces:
                self.blocks[piece.first] = [KvBlock(*span(whole, piece.first, piece.end))]

    def of(self, piece: Piece) -> list[KvBlock]:
        """The blocks of a piece."""
        return self.blocks[piece.first]

    def before(self, piece: Piece) -> Iterator[KvBlock]:
        """The blocks of all pieces before this one."""
        for first, blocks in self.blocks.items():
            if first < piece.first:
                yield from blocks

    def sums(self, piece: Piece) -> KvPair:
        """dK and dV [kv_heads, n, D] of a piece, complete: no later piece is left."""
        blocks = self.blocks.pop(piece.first)
        if self.divided:
            return self.cache.own_sums(self.starts[piece.first], blocks)
        return blocks[0].key_gradients, blocks[0].value_gradients


def _placed(
    key: Tensor,
    value: Tensor,
    turns: Tensor,
    cache: LayerCache,
    start: int,
    piece: Piece,
    ranks: StageRanks,
) -> list[KvPair]:
    """Rotate and keep K and V [kv_heads, n, D] of a piece; those of all ranks with its heads."""
    first = start + ranks.context.size * piece.first
    own_key, own_value = cache.place(key, first)
    rotate_into(key, turns, own_key)
    own_value.copy_(value)
    cache.keep(first, own_key, own_value)
    if ranks.context.size > 1:
        return cache.own(first, piece.tokens)
    return [(own_key, own_value)]


def _by_head(exchanged: Tensor, heads: int, ranks: StageRanks) -> Tensor:
    """[n, heads w] as gathered -> [1, heads, n, w] by position."""
    rows = in_order(exchanged, ranks.head_ranks)
    return rows.view(rows.shape[0], heads, -1).transpose(0, 1).unsqueeze(0)


def _one_ahead(
    pieces: Iterable[Piece], begin: Callable[[Piece], Work]
) -> Iterator[tuple[Piece, Work]]:
    """Each piece with its exchange, while that of the next piece is in flight."""
    works = ((piece, begin(piece)) for piece in pieces)
    ahead = next(works, None)
    while ahead is not None:
        held = [ahead]
        ahead = next(works, None)
        yield held.pop()  # the caller alone decides how long it lives

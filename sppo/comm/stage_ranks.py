"""The ranks of a stage: those that divide its weights, and those with the same weights.

The ranks with the same weights divide the tokens of a subsequence. Around attention Ulysses ranks
exchange tokens for heads: each then has some heads of all their tokens. Ranks of a context have the
same heads: each has every C-th token, and gathers K and V. Rank in the stage = TP x (place in
`ulysses` + U x place in `context`) + place in `shards`. The tokens of a context rank are dealt to
its TP x U ranks (`collectives.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sppo.comm.collectives import CollectiveWork, Team, as_gathered
from sppo.plan.parts import exchange_runs


@dataclass(frozen=True, kw_only=True)
class StageRanks:
    """One rank's teams inside its stage.

    `shards` divide weights and gather the tokens of one another. `ulysses` and `context` have the
    same weights, `context` also the same heads. exchange_pieces: the pieces of a subsequence, of
    which one is exchanged while attention computes on another.
    """

    shards: Team
    ulysses: Team
    context: Team
    exchange_pieces: int = 1

    @property
    def size(self) -> int:
        """Ranks of the stage (SP)."""
        return self.head_ranks * self.context.size

    @property
    def head_ranks(self) -> int:
        """Ranks that divide the heads: TP x Ulysses."""
        return self.shards.size * self.ulysses.size

    def own_positions(self, rows: Tensor) -> Tensor:
        """Rows [l, ...] by position -> [l / C, ...] of this context rank's tokens, a view."""
        if self.context.size == 1:
            return rows
        return rows[self.context.index :: self.context.size]

    def own_part(self, rows: Tensor) -> Tensor:
        """Rows [l, ...] by position -> [l / (U C), ...] of the tokens of `shards`, as gathered."""
        own = as_gathered(self.own_positions(rows), self.head_ranks)
        return own.chunk(self.ulysses.size)[self.ulysses.index]

    def runs(self, rows: int) -> list[slice]:
        """The pieces of so many rows of every rank: runs of rows, and so of positions."""
        return exchange_runs(rows, self.exchange_pieces)

    def run_of(self, rows: Tensor, run: slice) -> Tensor:
        """[l / U, ...] of the tokens of `shards`, as gathered -> the run of every shard."""
        if self.shards.size == 1:
            return rows[run]
        by_shard: Tensor = rows.unflatten(0, (self.shards.size, -1))
        return by_shard[:, run].flatten(0, 1)

    def put_run(
        self, into: Tensor, run: slice, work: CollectiveWork, widths: Sequence[int]
    ) -> None:
        """Write a run that ranks have exchanged to its places: the inverse of `run_of`.

        work: an all-to-all of rows by head, in flight.
        """
        if self.shards.size == 1:
            self._to_tokens(work.wait(), widths, into[run])
            return
        shape = (self.shards.size, -1)
        exchanged = work.wait()
        rows = exchanged.new_empty(exchanged.shape[0] // self.ulysses.size, into.shape[1])
        self._to_tokens(exchanged, widths, rows)
        into.unflatten(0, shape)[:, run].copy_(rows.unflatten(0, shape))

    def exchange_for_heads(self, rows: Tensor, widths: Sequence[int]) -> Tensor:
        """[l / U, w] of the tokens of `shards` -> [l, w / U] of this rank's heads.

        Both are as gathered, the result by all ranks that divide the heads; the l tokens are those
        of this context rank. The w columns are blocks of these widths, and a rank takes its share
        of each.
        """
        return rows if self.ulysses.size == 1 else self.begin_for_heads(rows, widths).wait()

    def begin_for_heads(self, rows: Tensor, widths: Sequence[int]) -> CollectiveWork:
        """`exchange_for_heads` in flight, of several Ulysses ranks."""
        count = self.ulysses.size
        blocks = [block.unflatten(-1, (count, -1)) for block in rows.split(list(widths), -1)]
        by_rank = rows.new_empty((count, rows.shape[0], rows.shape[1] // count))
        shares = by_rank.split([width // count for width in widths], -1)
        for block, share in zip(blocks, shares, strict=True):
            share.copy_(block.transpose(0, 1))
        return self.ulysses.all_to_all(by_rank.flatten(0, 1))

    def exchange_for_tokens(self, rows: Tensor, widths: Sequence[int]) -> Tensor:
        """The inverse of `exchange_for_heads`."""
        count = self.ulysses.size
        if count == 1:
            return rows
        exchanged = self.ulysses.all_to_all(rows).wait()
        out = exchanged.new_empty(exchanged.shape[0] // count, count * exchanged.shape[1])
        self._to_tokens(exchanged, widths, out)
        return out

    def _to_tokens(self, exchanged: Tensor, widths: Sequence[int], out: Tensor) -> None:
        """Write rows by sending rank to `out` [l / U, w], whose columns are blocks of widths."""
        count = self.ulysses.size
        received = exchanged.unflatten(0, (count, -1))
        shares = received.split([width // count for width in widths], -1)
        for block, share in zip(out.split(list(widths), -1), shares, strict=True):
            block.unflatten(-1, (count, -1)).copy_(share.transpose(0, 1))

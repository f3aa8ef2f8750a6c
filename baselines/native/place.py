"""A rank's place among replicas, ring and Ulysses group, and its tokens. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.native.settings import NativeSettings


@dataclass(frozen=True, kw_only=True)
class Place:
    """Ranks are ordered by replica, ring rank and Ulysses rank, the last innermost.

    A ring rank has chunks r and 2n-1-r of 2n: equal causal work, as torch's ring attention expects.
    Its Ulysses ranks divide these tokens.
    """

    settings: NativeSettings
    rank: int

    @property
    def replica(self) -> int:
        """The replica of this rank."""
        return self.rank // self.settings.ranks_of_a_sequence

    @property
    def ring_rank(self) -> int:
        """The rank in the ring of context parallelism."""
        within = self.rank % self.settings.ranks_of_a_sequence
        return within // self.settings.sequence_parallel

    def positions(self, tokens: int) -> Sequence[range]:
        """The positions of this rank's tokens in a sequence, one or two runs in their order."""
        ring, ulysses = self.settings.context_parallel, self.settings.sequence_parallel
        own = tokens // (ring * ulysses)
        start = self.rank % ulysses * own
        if ring == 1:
            return (range(start, start + own),)
        chunk = tokens // (2 * ring)
        runs = []
        for begin, number in ((0, self.ring_rank), (chunk, 2 * ring - 1 - self.ring_rank)):
            first, last = max(start, begin), min(start + own, begin + chunk)
            shift = number * chunk - begin
            if first < last:
                runs.append(range(first + shift, last + shift))
        return tuple(runs)


def misfit_of_tokens(tokens: int, settings: NativeSettings) -> str | None:
    """Why so many tokens do not divide over the ranks of a sequence, or None."""
    ulysses, ring = settings.sequence_parallel, settings.context_parallel
    if ring > 1 and tokens % (2 * ring * ulysses):
        return (
            f"native: {tokens} tokens do not split into 2 chunks for each of {ring} ring ranks of "
            f"Ulysses {ulysses}"
        )
    if tokens % ulysses:
        return f"native: {tokens} tokens do not split over Ulysses {ulysses}"
    return None


def group_ranks(settings: NativeSettings, ranks: int) -> tuple[list[list[int]], list[list[int]]]:
    """The ranks of all Ulysses groups, and those of all rings."""
    ulysses, whole = settings.sequence_parallel, settings.ranks_of_a_sequence
    everyone = range(ranks)
    rings = [
        list(everyone[start + inner : start + whole : ulysses])
        for start in everyone[::whole]
        for inner in range(ulysses)
    ]
    return [list(everyone[start : start + ulysses]) for start in everyone[::ulysses]], rings

"""A rank's place among replicas, ring, Ulysses and TP groups, and its tokens. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baselines.native.settings import NativeSettings


@dataclass(frozen=True, kw_only=True)
class Place:
    """Ranks are ordered by replica, ring rank, Ulysses rank and TP rank, the last innermost.

    A ring rank has chunks r and 2n-1-r of 2n: equal causal work, as torch's ring attention expects.
    Its Ulysses ranks divide these tokens. The ranks of a TP group have the same tokens.
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
        return within // self.settings.ranks_of_a_ring_rank

    def positions(self, tokens: int) -> Sequence[range]:
        """The positions of this rank's tokens in a sequence, one or two runs in their order."""
        ring, ulysses = self.settings.context_parallel, self.settings.sequence_parallel
        own = tokens // (ring * ulysses)
        start = self.rank // self.settings.tensor_parallel % ulysses * own
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
    own, tensor = tokens // (ring * ulysses), settings.tensor_parallel
    if own % tensor:
        return (
            f"native: {own} tokens of a rank do not split over TP {tensor}: torch's "
            "SequenceParallel takes equal shards"
        )
    return None


@dataclass(frozen=True, kw_only=True)
class GroupRanks:
    """The ranks of all groups, by kind. shards: those over which FSDP2 shards."""

    tensor: list[list[int]]
    ulysses: list[list[int]]
    ring: list[list[int]]
    shards: list[list[int]]


def group_ranks(settings: NativeSettings, ranks: int) -> GroupRanks:
    """The groups of so many ranks; every rank is in one group of each kind."""
    tensor, whole = settings.tensor_parallel, settings.ranks_of_a_sequence
    inner = settings.ranks_of_a_ring_rank
    everyone = range(ranks)

    def strided(outer: int, stride: int) -> list[list[int]]:
        """In each block of `outer` ranks, the ranks that are `stride` apart."""
        return [
            list(everyone[start + first : start + outer : stride])
            for start in everyone[::outer]
            for first in range(stride)
        ]

    return GroupRanks(
        tensor=strided(tensor, 1),
        ulysses=strided(inner, tensor),
        ring=strided(whole, inner),
        shards=strided(ranks, tensor),
    )

"""A comparison: A/A pairs, then pairs in turns until the verdict is final or the time is spent."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.regression.compare import measuring, recorded
from benchmarks.regression.compare.paired import Pair
from benchmarks.regression.compare.recorded import Header, Kind, RecordedPair, pairs_of
from benchmarks.regression.compare.trees import Tree
from benchmarks.regression.compare.verdict import (
    FALSE_CALLS,
    LOOKS,
    Verdict,
    decided,
    is_quiet,
    too_noisy,
    verdict,
)

A_A_PAIRS = 2
"""The least number of A/A pairs."""

A_A_SHARE = 1 / 3
"""The part of a target's time that A/A pairs may take to leave the margin as asked."""

NOISY_SHARE = 1 / 2
"""The part that they may take where the machine is too noisy for `not worse`."""

NextPair = Callable[[str, Kind, int], RecordedPair]
"""Target, kind and number, from 0, of a pair -> the pair, measured, or drawn by a proof."""


@dataclass(kw_only=True)
class Session:
    """Asks for pairs until every target has its verdict.

    margin: the asked one, a share. false_calls: of each target. note: gets a line of progress now
    and then.
    """

    next_pair: NextPair
    margin: float
    false_calls: float = FALSE_CALLS
    clock: Callable[[], float] = time.monotonic
    note: Callable[[str], None] = lambda line: None

    def compare(self, targets: Sequence[str], budget_seconds: float) -> dict[str, Verdict]:
        """The verdicts by target. Time that a decided target leaves is for the later ones."""
        end = self.clock() + budget_seconds
        verdicts = {}
        for number, target in enumerate(targets):
            share = (end - self.clock()) / (len(targets) - number)
            verdicts[target] = self.compare_target(target, share)
            self.note(f"{target}: {verdicts[target].outcome}")
        return verdicts

    def compare_target(self, target: str, seconds: float) -> Verdict:
        """The verdict on one target within this time, which a last pair may exceed."""
        pairs = _Pairs(target, self.next_pair, self.clock)
        now = self.clock()
        a_a = self._a_a_pairs(pairs, now + A_A_SHARE * seconds, now + NOISY_SHARE * seconds)
        self.note(f"{target}: {len(a_a)} A/A pairs, at most {seconds:.0f} s for all")
        done: list[Pair] = []
        while True:
            over = not pairs.fits(now + seconds)
            final = decided(done, a_a, self.margin, self.false_calls, at_end=over)
            if final is not None:
                return final
            if len(done) in LOOKS:
                self.note(f"{target}: {len(done)} pairs, not decided yet")
            done.append(pairs.next("a/b", len(done)))

    def _a_a_pairs(self, pairs: _Pairs, until: float, end: float) -> list[Pair]:
        """A/A pairs until the asked margin stands; until `end` where the machine is too noisy."""
        done: list[Pair] = []
        while pairs.fits(end):
            noisy = too_noisy(done, self.margin)
            enough = is_quiet(done, self.margin) or not (noisy or pairs.fits(until))
            if len(done) >= A_A_PAIRS and enough:
                break
            done.append(pairs.next("a/a", len(done)))
        return done


@dataclass
class _Pairs:
    """The pairs of one target, and how long they take."""

    target: str
    next_pair: NextPair
    clock: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    def next(self, kind: Kind, number: int) -> Pair:
        started = self.clock()
        pair = self.next_pair(self.target, kind, number)
        self.seconds.append(self.clock() - started)
        return pair.pair

    def fits(self, end: float) -> bool:
        """Whether a pair that takes as long as most ends in time."""
        return self.clock() + statistics.median(self.seconds or [0.0]) < end


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Pairs of two trees, measured in turns; each is on disk before the next begins."""

    base: Tree
    head: Tree
    directory: Path

    def __call__(self, target: str, kind: Kind, number: int) -> RecordedPair:
        """Raises TreeError where a tree cannot be timed, OSError from the folder.

        The sides come first in turns, A B B A, so that a steady drift favours neither.
        """
        started = time.monotonic()
        sides: Mapping[str, Tree] = {
            "base": self.base,
            "head": self.base if kind == "a/a" else self.head,
        }
        turns = ("head", "base") if number % 2 else ("base", "head")
        measured = {side: measuring.measure(sides[side], target) for side in turns}
        pair = RecordedPair(
            target=target,
            kind=kind,
            order="head first" if number % 2 else "base first",
            seconds=time.monotonic() - started,
            **measured,
        )
        recorded.append(self.directory, pair)
        return pair


def judge(done: Sequence[RecordedPair], header: Header) -> dict[str, Verdict]:
    """The verdicts of recorded pairs, by target: those of the session that has recorded them."""
    judged = {
        target: verdict(
            pairs_of(done, target, "a/b"),
            pairs_of(done, target, "a/a"),
            header.margin,
            header.false_calls,
        )
        for target in header.targets
    }
    return judged | lost_verdicts(header)


def lost_verdicts(header: Header) -> dict[str, Verdict]:
    """The verdicts on the targets that HEAD has lost."""
    return {
        target: Verdict(outcome="worse", margin=header.margin, pairs=0, reason=reason)
        for target, reason in header.lost.items()
    }

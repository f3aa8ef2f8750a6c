"""The wording of a plan's card and reasons: the sentences, ranges of numbers, counts. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

SENTENCES = {
    "no degrees": "{layout.degrees_words}: no other degrees were allowed",
    "degrees": (
        "{layout.degrees_words}: the next best degrees, {next.degrees_words}, need "
        "{next.least_seconds:.3f} s of compute alone against {best:.3f} s ({more:+.1%}); {verdict}"
    ),
    "chunks": "{chunks} a stage: {verdicts}",
    "count": "N {count}: {work:.3f} s of work on the fullest stage and {ends:.3f} s at the ends",
    "no count": "no other N was allowed",
    "next count": "N {count} has {work:.3f} + {ends:.3f} s ({verdict})",
    "capped": (
        "lengths are capped at {cap:,} tokens: without the cap the first length would be "
        "{longest:,} tokens and N would be {count} ({verdict})"
    ),
    "not capped": (
        "early lengths are not capped: a cap of {longest:,} tokens would make N {count} ({verdict})"
    ),
    "simulated": "simulated {slower:.2%} slower",
    "estimated": "estimated {slower:.2%} slower",
    "does not fit": "does not fit: the nearest layout is short of {short}",
    "not simulated": "not simulated: enough layouts of less compute were",
    "no limit": "no device limit: keeping all saved tensors takes {all}",
    "all fits": "device limit {limit}: keeping all saved tensors takes {all}, which fits",
    "too much": (
        "device limit {limit}: keeping all saved tensors would take {all} on the fullest stage, "
        "{excess} too much"
    ),
    "offloaded": "on average {share:.0%} of the saved bytes of a subsequence are offloaded",
    "recomputed": "{names} are recomputed ({seconds:.3f} s, {share:.1%} of the work)",
    "all kept": "nothing is offloaded or recomputed",
    "peak": "the predicted peak is {peak}",
    "hosted": (
        "K, V and their gradients are in the host tier and are reloaded in blocks of {tokens:,} "
        "tokens: on the device they would take {size}"
    ),
    "synchronous": (
        "copies are synchronous on this hardware: they take {seconds:.3f} s of the compute of the "
        "stage that copies most"
    ),
    "hidden": "every copy is shorter than the compute that hides it: no copy is exposed",
    "exposed": (
        "copies of subsequences {indices} are longer than the compute that hides them: the excess "
        "is {seconds:.3f} s in all on the stage that has most of it"
    ),
}
"""Sentences of a plan's reasons, and parts of them, by name."""


def sentence(name: str, **values: object) -> str:
    """A sentence of SENTENCES, filled in. Raises KeyError for a name or value that is missing."""
    return SENTENCES[name].format(**values)


def counted(number: int, noun: str) -> str:
    """ "1 model chunk", "2 model chunks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers, shortened: "0 .. 5, 8", or "0, 4, .., 28" where they are evenly spaced."""
    members = list(numbers)
    steps = {after - before for before, after in itertools.pairwise(members)}
    if len(members) > 3 and len(steps) == 1 and steps != {1}:
        return f"{members[0]}, {members[1]}, .., {members[-1]}"
    words: list[str] = []
    for _, pairs in itertools.groupby(enumerate(members), key=lambda pair: pair[1] - pair[0]):
        run = [str(number) for _, number in pairs]
        words += run if len(run) < 3 else [f"{run[0]} .. {run[-1]}"]
    return ", ".join(words)

"""The largest number of tokens that fits, by asking as little as possible. No launches in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a length fits; where it does, at which length memory may end (tokens), if known."""

    fits: bool
    guess_tokens: int | None = None


Ask = Callable[[int], Answer]


def longest_fit(
    ask: Ask,
    *,
    start_tokens: int,
    step_tokens: int,
    most_tokens: int,
    stride_tokens: int,
    floor_tokens: int = 0,
) -> int:
    """A multiple of the step that fits while the next one does not; the floor if none above fits.

    Asks `start_tokens`, then ever further away (strides doubling, the first is `stride_tokens`)
    until the answer turns, then halves between. Where the first answer brings a guess, the search
    goes on around it, in strides of one step. No length is asked twice. Where answers are not
    monotone, the result is one place at which they turn, not always the largest.
    All arguments are multiples of the step; only lengths above the floor, up to the most, are
    asked.
    """
    low, high = floor_tokens, most_tokens + step_tokens
    centre, stride = min(start_tokens, most_tokens), stride_tokens
    answer = ask(centre)
    low, high = (centre, high) if answer.fits else (low, centre)
    if answer.fits and answer.guess_tokens is not None:
        guess = answer.guess_tokens // step_tokens * step_tokens
        guess = min(max(guess, low + step_tokens), most_tokens)
        stride = step_tokens
        if low < guess < high:
            centre = guess
            low, high = (centre, high) if ask(centre).fits else (low, centre)
    rising = low == centre
    while low + step_tokens < high:
        at = centre + stride if rising else centre - stride
        stride *= 2
        if not low < at < high:
            at = most_tokens if rising and high > most_tokens else 0
        if not low < at < high:
            break
        fits = ask(at).fits
        low, high = (at, high) if fits else (low, at)
        if fits != rising:
            break
    while high - low > step_tokens:
        middle = (low + high) // 2 // step_tokens * step_tokens
        low, high = (middle, high) if ask(middle).fits else (low, middle)
    return low

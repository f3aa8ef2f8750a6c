"""The largest number of tokens that fits, in few questions. Nothing is launched here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a length fits. guess_tokens: where memory may end; None if unknown."""

    fits: bool
    guess_tokens: int | None = None


def guess_tokens(
    sizes_bytes: Iterable[tuple[int, int]], tokens: int, limit_bytes: int
) -> int | None:
    """Tokens at which the fullest rank reaches the limit, if the step's bytes grow with tokens.

    sizes_bytes: (peak, live before the step) by rank. Bytes from before the step (model state) do
    not grow. None without counts.
    """
    guesses = [
        tokens * (limit_bytes - before_bytes) // (peak_bytes - before_bytes)
        for peak_bytes, before_bytes in sizes_bytes
        if peak_bytes > before_bytes
    ]
    return min(guesses, default=None)


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

    Asks `start_tokens`, then lengths ever further away (strides double, from `stride_tokens`)
    until the answer turns, then bisects. If the first answer brings a guess, the search goes on
    around the guess, from a stride of one step. No length is asked twice. If answers are not
    monotone, the result is one place at which they turn, not always the largest.
    All arguments are multiples of the step. Only lengths above the floor, up to the most, are
    asked.
    """
    low, high = floor_tokens, most_tokens + step_tokens

    def narrow(tokens: int) -> Answer:
        nonlocal low, high
        answer = ask(tokens)
        low, high = (tokens, high) if answer.fits else (low, tokens)
        return answer

    def fits(tokens: int) -> bool:
        return narrow(tokens).fits

    centre, stride = min(start_tokens, most_tokens), stride_tokens
    first = narrow(centre)
    if first.fits and first.guess_tokens is not None:
        stride = step_tokens
        guess = first.guess_tokens // step_tokens * step_tokens
        guess = min(max(guess, low + step_tokens), most_tokens)
        if low < guess < high:
            centre = guess
            fits(centre)
    rising = low == centre
    while low + step_tokens < high:
        tokens = min(centre + stride, most_tokens) if rising else centre - stride
        stride *= 2
        if tokens <= low or fits(tokens) != rising:
            break
    bisect_left(range(high - step_tokens, low, -step_tokens), True, key=fits)
    return low

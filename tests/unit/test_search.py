from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.longest_fit import Answer, Ask, longest_fit


def asker(fits: set[int], guess: int | None = None) -> tuple[list[int], Ask]:
    asked: list[int] = []

    def ask(tokens: int) -> Answer:
        assert tokens not in asked, "no length is asked twice"
        asked.append(tokens)
        return Answer(fits=tokens in fits, guess_tokens=guess if tokens in fits else None)

    return asked, ask


def search(ask: Ask, **changes: int) -> int:
    given_values = {"start_tokens": 4, "step_tokens": 1, "most_tokens": 64, "stride_tokens": 4}
    return longest_fit(ask, **{**given_values, **changes})


@given(
    limit=st.integers(0, 80),
    start=st.integers(1, 64),
    stride=st.integers(1, 64),
    guess=st.none() | st.integers(0, 100),
)
def test_a_monotone_answer_is_found(limit: int, start: int, stride: int, guess: int | None) -> None:
    asked, ask = asker(set(range(1, limit + 1)), guess)
    longest = search(ask, start_tokens=start, stride_tokens=stride)
    assert longest == min(limit, 64)
    assert all(1 <= tokens <= 64 for tokens in asked)


@given(fits=st.sets(st.integers(1, 64)), start=st.integers(1, 64), guess=st.integers(1, 64))
def test_a_result_that_is_not_monotone_is_where_answers_turn(
    fits: set[int], start: int, guess: int
) -> None:
    longest = search(asker(fits, guess)[1], start_tokens=start)
    assert longest == 0 or longest in fits
    assert longest == 64 or longest + 1 not in fits


def test_everything_fails() -> None:
    asked, ask = asker(set())
    assert search(ask, start_tokens=16) == 0
    assert asked == [16, 12, 8, 4, 2, 1]


def test_the_first_fails_and_shorter_ones_fit() -> None:
    _, ask = asker(set(range(1, 6)))
    assert search(ask, start_tokens=16) == 5


def test_doubling_then_halving() -> None:
    asked, ask = asker(set(range(1, 14)))
    assert search(ask) == 13
    assert asked == [4, 8, 12, 20, 16, 14, 13]


def test_a_good_guess_needs_three_launches() -> None:
    asked, ask = asker(set(range(1, 14)), guess=13)
    assert search(ask) == 13
    assert asked == [4, 13, 14]


def test_above_a_floor_that_nothing_beats_one_question_is_enough() -> None:
    asked, ask = asker(set(range(1, 10)))
    assert search(ask, start_tokens=13, floor_tokens=12, stride_tokens=1) == 12
    assert asked == [13]


@pytest.mark.parametrize("step", [256, 512])
def test_all_lengths_are_multiples_of_the_step(step: int) -> None:
    asked, ask = asker(set(range(1, 10_000)), guess=9_999)
    longest = search(
        ask, start_tokens=4096, step_tokens=step, most_tokens=2**20, stride_tokens=4096
    )
    assert longest == 9_999 // step * step
    assert not [tokens for tokens in asked if tokens % step]

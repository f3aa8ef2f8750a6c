"""The ratios within pairs: the second test of `worse`."""

from __future__ import annotations

from itertools import cycle, islice, product
from math import exp

import pytest

from benchmarks.regression.compare.paired import chance_of_equal, typical_ratio
from benchmarks.regression.compare.verdict import Verdict, verdict
from tests.unit.compare_cases import pairs

MARGIN = 0.03

SPEEDS = list(islice(cycle([1.0, 1.12, 1.11, 1.13]), 40))
"""A core of two speeds: a quarter of the pairs is fast, both sides of a pair alike."""

JITTER = list(islice(cycle([1.0, 1.004, 1.001, 1.003, 1.002]), 40))


def judged(factor: float, a_a_factor: float = 1.0) -> Verdict:
    base = [speed * jitter for speed, jitter in zip(SPEEDS, JITTER, strict=True)]
    head = [factor * speed * jitter for speed, jitter in zip(SPEEDS, reversed(JITTER), strict=True)]
    a_a = pairs([1.0, 1.12, 1.001], [a_a_factor * seconds for seconds in (1.001, 1.12, 1.0)])
    return verdict(pairs(base, head), a_a, MARGIN)


def test_a_slow_down_on_a_core_of_two_speeds_is_worse() -> None:
    slower = judged(1.1)
    assert slower.low is not None
    assert slower.low < 1 + MARGIN, "the least times alone must not decide this case"
    assert slower.outcome == "worse"
    assert "HEAD typically takes 1.100 times as long" in slower.reason


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.02, 1.03])
def test_within_the_margin_nothing_is_worse(factor: float) -> None:
    assert judged(factor).outcome != "worse"


def test_the_error_of_the_a_a_pairs_widens_the_margin() -> None:
    assert judged(1.1, a_a_factor=1.05).outcome != "worse"


def test_the_typical_ratio_is_not_moved_by_a_disturbed_pair() -> None:
    assert typical_ratio(pairs([1.0, 2.0, 4.0], [1.1, 2.2, 4.4])) == pytest.approx(1.1)
    disturbed = pairs([1.0] * 9, [1.1] * 8 + [30.0])
    assert typical_ratio(disturbed) == pytest.approx(1.1)


@pytest.mark.parametrize("allowed", [0.004, 0.02, 0.1])
def test_equal_code_has_a_small_chance_as_often_as_it_says(allowed: float) -> None:
    """Every order of eight pairs' sides, each as likely as the other."""
    sizes = [0.01 * (number + 1) for number in range(8)]
    orders = list(product((-1, 1), repeat=len(sizes)))
    small = sum(
        chance_of_equal(
            pairs([1.0] * 8, [exp(sign * size) for sign, size in zip(signs, sizes, strict=True)]),
            0.0,
        )
        <= allowed
        for signs in orders
    )
    assert 0 < small / len(orders) <= allowed

"""Change points: two points in a row, single outliers, exact numbers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.regression.history.changes import find_changes, is_beyond, is_new

NOISE = [0.3, -0.8, 1.2, -0.2, 0.6, -1.1, 0.1, 0.9, -0.5, 0.4, -0.9, 0.7]
"""In per cent."""


def noisy(levels: list[float]) -> list[float]:
    return [level * (1 + NOISE[n % len(NOISE)] / 100) for n, level in enumerate(levels)]


@pytest.mark.parametrize("factor", [1.05, 1.3, 0.9])
def test_a_step_is_found_where_it_is(factor: float) -> None:
    (change,) = find_changes(noisy([1.0] * 12 + [factor] * 12), least=0.03)
    assert change.index == 12
    assert change.share == pytest.approx(factor - 1, abs=0.01)


@pytest.mark.parametrize("place", [0, 1, 7, 22, 23])
@pytest.mark.parametrize("factor", [1.1, 3.0, 0.4])
def test_a_single_outlier_is_no_change(place: int, factor: float) -> None:
    values = noisy([1.0] * 24)
    values[place] *= factor
    assert find_changes(values, least=0.03) == []


def test_two_points_in_a_row_are_a_change() -> None:
    values = noisy([1.0] * 12 + [1.2] * 2)
    assert [change.index for change in find_changes(values, least=0.03)] == [12]
    assert find_changes(values[:-1], least=0.03) == []


def test_outliers_with_a_good_point_between_are_no_change() -> None:
    assert find_changes(noisy([1.0] * 12 + [1.4, 1.0, 1.4, 1.0, 1.0]), least=0.03) == []


def test_a_change_below_the_least_is_none() -> None:
    assert find_changes(noisy([1.0] * 24 + [1.02] * 24), least=0.03) == []


def test_a_slow_down_and_its_repair_are_two_changes() -> None:
    changes = find_changes(noisy([1.0] * 10 + [1.2] * 10 + [1.0] * 10), least=0.03)
    assert [change.index for change in changes] == [10, 20]


@pytest.mark.parametrize("values", [[5, 5, 5, 6, 6], [10**12] * 6 + [10**12 + 1] * 2, [0, 0, 3, 3]])
def test_an_exact_number_changes_by_any_amount(values: list[int]) -> None:
    (change,) = find_changes(values, least=0)
    assert change.after != change.before
    assert values[change.index] == change.after


def test_small_exact_changes_are_found_beside_a_large_one() -> None:
    values = [100] * 5 + [101] * 5 + [900] * 5
    assert [change.index for change in find_changes(values, least=0)] == [5, 10]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0, 2.0], [0.0] * 9])
def test_too_few_or_equal_points_have_no_change(values: list[float]) -> None:
    assert find_changes(values, least=0.03) == []
    assert is_new(values, least=0.03) is None
    assert is_beyond(values, least=0.03) is None


def test_a_change_is_new_once() -> None:
    values = noisy([1.0] * 12 + [1.2] * 8)
    new = [night for night in range(1, 21) if is_new(values[:night], least=0.03)]
    assert new == [14]


def test_the_last_point_alone_is_a_suspect() -> None:
    values = noisy([1.0] * 12 + [1.2])
    assert is_beyond(values, least=0.03) == pytest.approx(0.2, abs=0.02)
    assert is_beyond(noisy([1.0] * 13), least=0.03) is None


def test_steady_noise_raises_few_alarms() -> None:
    """Of 40 series of 60 nights with noise of 2 %; the rates of docs/history.md are by soak."""
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(40):
        nights = (1 + 0.02 * random.standard_normal(60)).tolist()
        alarms += len(find_changes(nights, least=0.03))
    assert alarms <= 4

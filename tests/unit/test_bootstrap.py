from __future__ import annotations

import numpy as np
import pytest

from benchmarks.records import bootstrap


def test_equal_steps_have_no_width() -> None:
    interval = bootstrap.step_interval([[2.0] * 5, [2.0] * 5])
    assert (interval.low, interval.median, interval.high) == (2.0, 2.0, 2.0)
    assert interval.half_width == 0


def test_two_launches_span_both_and_their_steps() -> None:
    interval = bootstrap.step_interval([[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]])
    assert interval.median == pytest.approx(1.6)
    assert interval.low <= 1.1
    assert interval.high >= 2.1


def test_pairs_that_move_together_keep_a_narrow_ratio() -> None:
    pairs = [([1.5] * 5, [1.0] * 5), ([3.0] * 5, [2.0] * 5)]
    interval = bootstrap.ratio_interval(pairs)
    assert (interval.low, interval.median, interval.high) == (1.5, 1.5, 1.5)


def test_the_same_records_give_the_same_interval() -> None:
    launches = [[1.0, 1.2, 1.1], [1.3, 1.25, 1.22, 1.4]]
    assert bootstrap.step_interval(launches) == bootstrap.step_interval(launches)


def test_more_launches_narrow_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator = np.random.default_rng(1)

    def width(count: int) -> float:
        launches = [generator.normal(generator.normal(1.0, 0.02), 0.02, 5) for _ in range(count)]
        interval = bootstrap.step_interval([steps.tolist() for steps in launches])
        return interval.high - interval.low

    few = [width(3) for _ in range(20)]
    many = [width(12) for _ in range(20)]
    assert np.mean(many) < 0.8 * np.mean(few)


def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five launches that differ by 2 %, with steps that differ by 2 %: nominally 95 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    generator = np.random.default_rng(2)

    def launch(seconds: float) -> list[float]:
        moment = seconds * (1 + generator.normal(0, 0.02))
        return [moment * (1 + generator.normal(0, 0.02)) for _ in range(5)]

    covered = 0
    for _ in range(100):
        interval = bootstrap.ratio_interval([(launch(1.2), launch(1.0)) for _ in range(5)])
        covered += interval.low <= 1.2 <= interval.high
    assert covered >= 85


def test_two_sides_have_random_streams_of_their_own() -> None:
    """Equal sides: the interval is that of independent draws."""
    steps = np.array([1.0, 1.05, 1.1, 1.2, 1.4])
    ratio = bootstrap.unpaired_ratio_interval([steps.tolist()] * 2, [steps.tolist()] * 2)
    drawn = np.random.default_rng(3).choice(steps, size=(2, 20000, 2, len(steps)))
    sides = np.median(np.median(drawn, axis=3), axis=2)
    low, high = np.percentile(sides[0] / sides[1], [2.5, 97.5])
    assert (ratio.low, ratio.high) == pytest.approx((low, high), abs=0.01)


def test_a_side_of_one_launch_has_no_ratio_interval() -> None:
    with pytest.raises(AssertionError, match="two launches or more"):
        bootstrap.unpaired_ratio_interval([[1.0, 1.1]], [[1.0, 1.1]] * 2)

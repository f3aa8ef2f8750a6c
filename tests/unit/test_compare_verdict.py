"""The verdict of `sppo-bench compare`: a pure function of recorded pairs."""

from __future__ import annotations

import json
from itertools import permutations
from math import comb

import numpy as np
import pytest

from benchmarks.regression.compare import verdict as verdicts
from benchmarks.regression.compare.paired import Pair
from benchmarks.regression.compare.report import exit_code
from benchmarks.regression.compare.verdict import (
    FALSE_CALLS,
    LOOKS,
    decided,
    false_calls_each,
    least_rank,
    verdict,
)
from tests.soak import compare_simulation
from tests.soak.compare_tries import PATIENT, rates
from tests.unit.compare_cases import pairs
from tests.unit.docs_text import CHECKOUT

MARGIN = 0.03

STEADY = [1.0, 1.001, 1.002, 1.003, 1.001, 1.002]

QUIET = pairs(STEADY[:2], STEADY[:2])


def times(factor: float) -> list[float]:
    return [factor * seconds for seconds in STEADY]


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [
        (1.0, "not worse"),
        (1.02, "not worse"),
        (1.05, "worse"),
        (0.95, "better"),
        (1.03, "undecided"),
    ],
)
def test_quiet_pairs_decide(factor: float, outcome: str) -> None:
    judged = verdict(pairs(STEADY, times(factor)), QUIET, MARGIN)
    assert judged.outcome == outcome
    assert judged.ratio == pytest.approx(factor)
    assert bool(judged.reason) == (outcome == "undecided")


def test_other_load_changes_no_verdict_while_some_runs_are_quiet() -> None:
    base = [1.0, 1.9, 1.4, 1.001, 1.003, 1.002, 1.003, 2.0, 1.001, 1.002, 1.004, 1.001]
    head = [1.7, 1.101, 1.102, 1.3, 1.1, 1.101, 1.1, 3.0, 1.4, 1.102, 1.5, 1.101]
    judged = verdict(pairs(base, head), QUIET, MARGIN)
    assert judged.outcome == "worse"
    assert judged.ratio == pytest.approx(1.1)
    assert verdict(pairs(base, base[::-1]), QUIET, MARGIN).outcome == "not worse"


def test_slowed_runs_of_head_alone_are_not_called_worse() -> None:
    head = [1.5, 1.4, 1.001, 1.6, 1.3, 1.7]
    assert verdict(pairs(STEADY, head), QUIET, MARGIN).outcome == "undecided"


def test_a_slow_down_does_not_pass_where_base_was_slowed_in_all_pairs() -> None:
    head = times(1.1)
    assert verdict(pairs(times(1.17), head), QUIET, MARGIN).outcome == "undecided"


def test_the_spread_of_the_machine_widens_the_margin() -> None:
    judged = verdict(pairs(STEADY, times(1.04)), pairs([1.0, 1.2], [1.015, 1.3]), MARGIN)
    assert judged.spread == pytest.approx(0.015)
    assert judged.margin == pytest.approx(0.045)
    assert judged.outcome == "not worse"
    noisy = verdict(pairs(STEADY, STEADY), pairs([1.0, 1.2], [1.1, 1.3]), MARGIN)
    assert noisy.outcome == "undecided"
    assert "too noisy: even the 2 fastest of 4 runs of BASE differ by 10.0 %" in noisy.reason


def test_a_noisy_machine_hides_no_large_slow_down() -> None:
    a_a = pairs([1.0, 1.2], [1.025, 1.3])
    judged = verdict(pairs(STEADY, times(3.0)), a_a, MARGIN)
    assert (judged.outcome, judged.margin) == ("worse", pytest.approx(0.075))
    assert verdict(pairs(STEADY, times(1.07)), a_a, MARGIN).outcome == "undecided"
    assert verdict(pairs(times(3.0), STEADY), a_a, MARGIN).outcome == "undecided"


def test_too_few_pairs_decide_nothing() -> None:
    judged = verdict(pairs(STEADY[:5], times(2.0)[:5]), QUIET, MARGIN)
    assert (judged.outcome, judged.low) == ("undecided", None)
    assert "5 pairs are too few of 6" in judged.reason
    assert "0 A/A runs" in verdict([], [], MARGIN).reason


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="no positive number"):
        verdict([Pair(base_seconds=1.0, head_seconds=wrong)], QUIET, MARGIN)
    with pytest.raises(ValueError, match="margin"):
        verdict([], QUIET, wrong)


def test_the_rank_is_exact_for_every_order() -> None:
    """All orders of three times of BASE and three of HEAD: as often as the formula says."""
    orders = list(permutations("AAABBB"))
    for rank in (1, 2, 3):
        first = sum(set(order[:rank]) == {"A"} for order in orders)
        assert first / len(orders) == pytest.approx(comb(6 - rank, 3) / comb(6, 3))


@pytest.mark.parametrize("targets", [1, 3, 11])
def test_all_targets_and_looks_together_keep_the_rate_of_false_calls(targets: int) -> None:
    spent = 0.0
    for number in LOOKS:
        rank = least_rank(number, false_calls_each(targets))
        if rank is not None:
            spent += comb(2 * number - rank, number) / comb(2 * number, number)
    assert 0 < targets * spent <= FALSE_CALLS


def test_more_targets_need_higher_ranks() -> None:
    assert [least_rank(number) for number in (5, 6, 12, 96)] == [None, 6, 9, 14]
    each = false_calls_each(3)
    assert [least_rank(number, each) for number in (6, 8, 12, 96)] == [None, 8, 10, 16]
    judged = verdict(pairs(STEADY, times(1.5)), QUIET, MARGIN, each)
    assert judged.reason == "6 pairs are too few of 8: give more --budget"


def test_looks_are_fixed_numbers_of_pairs() -> None:
    seven = pairs([*STEADY, 1.0], [*times(1.5), 1.5])
    assert decided(seven[:6], QUIET, MARGIN) == verdict(seven[:6], QUIET, MARGIN)
    assert decided(seven, QUIET, MARGIN) is None
    assert decided(seven, QUIET, MARGIN, at_end=True) == verdict(seven, QUIET, MARGIN)
    undecided = pairs(STEADY, times(1.03))
    assert decided(undecided, QUIET, MARGIN) is None


def test_the_worst_verdict_is_the_exit_code() -> None:
    assert exit_code(["better", "not worse"]) == 0
    assert exit_code(["undecided", "not worse"]) == 3
    assert exit_code(["undecided", "worse", "better"]) == 1


@pytest.mark.parametrize("noise", ["bursts", "two speeds", "long load"])
def test_made_noise_gives_no_false_verdict(noise: str) -> None:
    """40 tries a case; tests/soak/compare_simulation.py has a thousand."""
    draw = compare_simulation.NOISES[noise]
    same = rates(40, PATIENT, compare_simulation.draws(draw, 1.0, 1))
    slower = rates(40, PATIENT, compare_simulation.draws(draw, 1.1, 2))
    assert same["not_worse"] >= 0.95
    assert slower["worse"] >= 0.95


def test_a_rule_without_ranks_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least times alone, and no A/A spread: identical code is often called worse or better."""
    monkeypatch.setattr(verdicts, "least_rank", lambda pairs, false_calls: 1)
    monkeypatch.setattr(verdicts, "too_noisy", lambda pairs, margin: False)
    monkeypatch.setattr(verdicts, "SPREAD_FACTOR", 0.0)
    draw = compare_simulation.NOISES["continuous"]
    same = rates(100, PATIENT, compare_simulation.draws(draw, 1.0, 1))
    assert same["worse"] + same["better"] > 0.2


def test_the_simulated_bursts_slow_some_processes_only() -> None:
    factors = compare_simulation.bursts(np.random.default_rng(1))
    drawn = [next(factors) for _ in range(200)]
    assert 0.3 < np.mean(np.array(drawn) > 1.2) < 0.8


def test_the_committed_simulation_keeps_what_the_page_says() -> None:
    path = CHECKOUT / "results" / "published" / "proofs" / "compare-simulation.json"
    cases = json.loads(path.read_text())["cases"]
    assert {case["noise"] for case in cases} == set(compare_simulation.NOISES)
    assert [case for case in cases if compare_simulation.is_wrong(case)] == []

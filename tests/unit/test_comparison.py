from __future__ import annotations

import math

import pytest

from benchmarks.records.equal_work import Difference, close, equal_work, first_difference
from benchmarks.records.record import StepRecord
from tests.unit.records_factory import step

TOLERANCE = 1e-5
GOOD = [step(5.5 - 0.1 * index, 1.0 + index) for index in range(6)]
REFERENCE = GOOD[:4]


def changed(index: int, **values: float | None) -> list[StepRecord]:
    loss = values.get("loss", GOOD[index].loss)
    norm = values.get("grad_norm", GOOD[index].grad_norm)
    return [*GOOD[:index], step(loss, norm), *GOOD[index + 1 :]]


def gate(
    rows: dict[str, list[StepRecord]], reference: list[StepRecord] | None = REFERENCE
) -> dict[str, Difference]:
    return equal_work(rows, reference, tolerance=TOLERANCE)


def test_equal_rows_pass() -> None:
    nearly = changed(2, loss=5.3 * (1 + 0.9e-5))
    assert gate({"a": GOOD, "b": nearly}) == {}


@pytest.mark.parametrize("quantity", ["loss", "grad_norm"])
@pytest.mark.parametrize("planted", [2.0, math.nan, math.inf, None])
def test_a_planted_difference_is_named_with_both_values(
    quantity: str, planted: float | None
) -> None:
    found = gate({"good": GOOD, "bad": changed(2, **{quantity: planted})})
    assert list(found) == ["bad"]
    assert found["bad"].step == 2
    assert found["bad"].quantity == quantity
    assert found["bad"].against == "the reference"
    assert found["bad"].expected == getattr(GOOD[2], quantity)


def test_just_over_the_tolerance_is_a_mismatch() -> None:
    assert "bad" in gate({"bad": changed(1, loss=5.4 * (1 + 1.1e-5))})


def test_the_first_difference_is_reported() -> None:
    both = [*changed(1, grad_norm=9.0)[:3], step(9.0, 9.0), *GOOD[4:]]
    found = first_difference(both, GOOD, tolerance=TOLERANCE, against="x")
    assert found is not None
    assert (found.step, found.quantity) == (1, "grad_norm")
    assert str(found) == "step 1: grad_norm 9, x has 2"


def test_nan_does_not_equal_nan() -> None:
    assert not close(math.nan, math.nan, 1.0)
    assert not close(None, None, 1.0)
    rows = {"a": changed(5, loss=None), "b": changed(5, loss=None)}
    assert set(gate(rows)) == {"a", "b"}


def test_missing_steps_are_a_mismatch() -> None:
    found = gate({"a": GOOD, "b": GOOD, "short": GOOD[:3]})
    assert list(found) == ["short"]
    assert found["short"].quantity == "number of steps"
    assert (found["short"].value, found["short"].expected) == (3, 4)


def test_unequal_counts_beyond_the_reference_are_a_mismatch() -> None:
    found = gate({"a": GOOD, "b": GOOD, "short": GOOD[:5]})
    assert list(found) == ["short"]
    assert (found["short"].value, found["short"].expected) == (5, 6)


def test_other_tokens_are_other_work() -> None:
    other = [*GOOD[:1], step(GOOD[1].loss, GOOD[1].grad_norm, tokens=511), *GOOD[2:]]
    assert gate({"bad": other})["bad"].quantity == "tokens"


def test_beyond_the_reference_the_majority_decides() -> None:
    found = gate({"a": GOOD, "b": GOOD, "bad": changed(5, loss=4.0)})
    assert list(found) == ["bad"]
    assert found["bad"].against == "a"


def test_two_rows_that_disagree_are_both_refused() -> None:
    assert set(gate({"a": GOOD, "b": changed(5, loss=4.0)})) == {"a", "b"}


def test_a_reference_without_steps_agrees_with_nobody() -> None:
    assert set(gate({"a": GOOD}, reference=[])) == {"a"}


def test_without_a_reference_rows_are_compared_with_each_other() -> None:
    assert gate({"a": GOOD, "b": GOOD}, reference=None) == {}
    found = gate({"a": GOOD, "b": GOOD, "bad": changed(0, loss=9.0)}, reference=None)
    assert list(found) == ["bad"]

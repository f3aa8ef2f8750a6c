"""Real numbers under the latest copies and messages that are allowed, and planted faults."""

from __future__ import annotations

import pytest

from tests.cuda.cases import BY_NAME, CASES
from tests.cuda.planted_faults import FAULTS, recorded_on
from tests.cuda.ranks_in_threads import TOLERANCE, run_case


@pytest.mark.parametrize("name", [case.name for case in CASES if case.in_tox])
def test_losses_and_weights_are_those_of_plain_torch(name: str) -> None:
    outcome = run_case(BY_NAME[name])
    assert outcome.error == ""
    assert outcome.findings == {}
    assert outcome.communication == []
    assert outcome.difference < TOLERANCE
    assert outcome.copies or outcome.messages


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    outcome = run_case(BY_NAME[fault.case])
    signs = [*outcome.findings, *outcome.communication]
    assert any(fault.sign in sign for sign in signs), signs
    if fault.seen_by_values:
        assert not outcome.difference < TOLERANCE, "the numbers are right all the same"


def test_memory_that_its_stream_is_named_for_may_be_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`record_stream` in place of holding a source is right, for the allocator."""
    recorded_on("_d2h")(monkeypatch)
    assert run_case(BY_NAME["all offloaded"]).findings == {}

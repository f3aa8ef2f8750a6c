"""`sppo-bench check` fails on small faults, and says where to look (all: tests/soak)."""

from __future__ import annotations

import pytest

from tests.soak import planted_faults
from tests.soak.planted_faults import CHECKOUT, FAULTS, Fault

QUICK = ("1 % more of a simulated cost in code", "a quadratic loop in the planner")


@pytest.mark.slow
@pytest.mark.parametrize("name", [QUICK[0], pytest.param(QUICK[1], marks=pytest.mark.soak)])
def test_a_planted_fault_is_caught(name: str) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    with planted_faults.tree(fault) as folder:
        checked = planted_faults.check(folder, fault.topics)
    assert planted_faults.caught(fault, checked), (*checked.lines, checked.errors)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_has_its_place(fault: Fault) -> None:
    text = (CHECKOUT / fault.file).read_text()
    assert planted_faults.planted(text, fault) != text

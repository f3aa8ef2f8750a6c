"""Plans and simulated steps are what they were (`sppo-bench check` has all; these are short)."""

from __future__ import annotations

import pytest

from benchmarks.regression.check import expected, gate, report, topics

SHORT = ("plans-unit-costs", "plans-tiny-cpu")


@pytest.mark.parametrize("name", SHORT)
def test_plans_are_as_expected(name: str) -> None:
    (result,) = gate.check(topics.find([name]), expected.default_directory(), update=False)
    assert result.outcome == "as expected", "\n".join(
        [
            result.reason,
            *report.lines(gate.changes([result])),
            "accept: sppo-bench check --topics plans --update",
        ]
    )

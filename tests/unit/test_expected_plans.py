"""Plans and simulated steps are what they were (`sppo-bench check` has all)."""

from __future__ import annotations

from benchmarks.regression.check import expected, gate, report, topics


def test_plans_are_as_expected() -> None:
    topic = topics.find(["plans-unit-costs"])
    (result,) = gate.check(topic, expected.default_directory(), update=False)
    assert result.outcome == "as expected", "\n".join(
        [
            result.reason,
            *report.lines(gate.changes([result])),
            "accept: sppo-bench check --topics plans --update",
        ]
    )

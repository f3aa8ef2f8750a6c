"""Plans and simulated steps are what they were, to the last digit (the longer half is slow)."""

from __future__ import annotations

import pytest

from benchmarks.regression import expected, topics
from benchmarks.regression.differences import lines
from benchmarks.regression.topics import Topic

HINT = "see and accept: python -m benchmarks.regression --topics plans [--update]"


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param(topic, id=topic.name, marks=[pytest.mark.slow] if topic.slow else [])
        for topic in topics.find(["plans"])
    ],
)
def test_plans_are_as_expected(topic: Topic) -> None:
    differences = topics.check(topic, expected.default_directory())
    assert not differences, "\n".join([*lines(topic.name, differences), HINT])

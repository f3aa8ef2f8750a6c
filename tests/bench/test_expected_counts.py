"""Emulated and real ranks count what they did, where the libraries are the same."""

from __future__ import annotations

import pytest

from benchmarks.regression import expected, topics
from benchmarks.regression.differences import lines
from benchmarks.regression.topics import Topic

HINT = "see and accept: python -m benchmarks.regression --topics emulations,gloo [--update]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "topic", [pytest.param(topic, id=topic.name) for topic in topics.TOPICS if topic.counted]
)
def test_counts_are_as_expected(topic: Topic) -> None:
    obstacle = topics.obstacle(topic, expected.default_directory())
    if obstacle is not None:
        pytest.skip(obstacle)
    differences = topics.check(topic, expected.default_directory())
    assert not differences, "\n".join([*lines(topic.name, differences), HINT])

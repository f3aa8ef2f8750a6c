"""pytest-benchmark's JSON gets what the history needs; a benchmark changes no other test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from benchmarks.environment import describe_environment


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Add machine, library versions and commit, as in records."""
    output_json["environment"] = describe_environment()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Targets limit torch to one thread."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

"""The fake CUDA device, built once and kept in pytest's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda.fake import device_guard


@pytest.fixture(scope="session")
def fake_cuda(pytestconfig: pytest.Config) -> Path:
    """The library to preload; skips where it cannot be built."""
    if device_guard.WHY_NOT is not None:
        pytest.skip(device_guard.WHY_NOT)
    assert pytestconfig.cache is not None
    return device_guard.shared_object(pytestconfig.cache.mkdir("fake-cuda"))

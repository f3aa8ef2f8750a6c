"""For all tests: they may run in a step of SLURM, and on a machine that is busy."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_finish() -> None:
    """Collections of garbage leave out the million objects of imported libraries."""
    if "torch" in sys.modules:
        from benchmarks.accounting.visible import spare_live_objects

        spare_live_objects()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def outside_slurm() -> Iterator[None]:
    """No test sees the step in which it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SLURM_"):
                patch.delenv(name)
        yield

"""For all tests: they may run in a step of SLURM, and on a machine that is busy."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def outside_slurm() -> Iterator[None]:
    """No test sees the step in which it runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("SLURM_"):
                patch.delenv(name)
        yield

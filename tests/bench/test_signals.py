"""A command that is ended by a signal leaves no process, no inputs and no damaged record."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.soak.signals import Case, faults

pytestmark = pytest.mark.slow

CASES = (
    Case(verb="run", signal=signal.SIGHUP),
    Case(verb="emulate", signal=signal.SIGQUIT),
    Case(verb="profile", signal=signal.SIGKILL),
)
"""All others: `python -m tests.soak.signals`."""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_left_behind(case: Case, tmp_path: Path) -> None:
    assert faults(case, tmp_path) == []

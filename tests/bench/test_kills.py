"""Two kills of `python -m tests.soak.kills`, without other load; a third is in `test_deaths`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.kills import Kill, Soak

pytestmark = pytest.mark.slow

KILLS = (
    Kill(world="SP 2", rank=1, kind="SIGABRT", phase="measured", seconds=0.05),
    Kill(world="DP 2", rank=1, kind="error", phase="throw-away", seconds=0.0),
)


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill.world} {kill.kind}")
def test_the_rank_that_died_first_is_named(kill: Kill, tmp_path: Path) -> None:
    """Sequence and data parallel ranks; the third are pipeline stages."""
    proof = Soak(tmp_path)
    record, faults = proof.launch(kill.world, kill)
    assert faults == [], record.reason
    assert proof.unread() == 0

"""SPPO's plans under tight limits, for real: they fit, and what lies beside tensors is planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from sppo.config.sizes import MIB
from tests.soak.device_limits import launches, summary

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("limit_mib", [92, 104, 128])
@pytest.mark.soak
def test_a_plan_fits_the_device_that_it_was_made_for(limit_mib: int, tmp_path: Path) -> None:
    """The proof has 20 launches at ten limits: results/published/proofs."""
    done = launches("tiny-cpu", limit_mib * MIB, 1, tmp_path)
    assert [(record.status, record.reason) for record in done] == [("ok", "")]
    if done[0].enforcement != "rlimit":
        pytest.skip("this kernel does not enforce RLIMIT_DATA")
    found = summary(limit_mib * MIB, done)
    for planned, (least, most) in zip(
        found["planned_untracked_bytes"], found["seen_untracked_bytes"], strict=True
    ):
        assert 0 < least <= most <= planned <= 2 * most

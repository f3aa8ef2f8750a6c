"""The engine's CUDA code on fake CUDA tensors: nothing is unordered, and planted faults show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cuda.cases import BY_NAME
from tests.cuda.fake_cuda_rank import reports
from tests.cuda.planted_faults import FAULTS

CLEAN = (
    "all offloaded:0",
    "PP 4, MSP:1",
    "SP 2, PP 2, DP 2, K and V hosted:5",
    pytest.param("K and V hosted:0", marks=pytest.mark.soak),
)
FAULTY = {
    f"{FAULTS[name].case}:0:{name}": name
    for name in (
        "a reload is not waited for",
        "a copy does not wait for the opposite direction",
    )
}
"""`tests.cuda.proof` plants all of them on fake CUDA, and `test_late_copies.py` on real numbers."""

PLANTED = [next(iter(FAULTY)), *(pytest.param(n, marks=pytest.mark.soak) for n in [*FAULTY][1:])]


@pytest.fixture(scope="module")
def by_name(fake_cuda: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """One process for all that will run: it imports torch once."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "name" in item.callspec.params
    ]
    return reports(fake_cuda, names)


@pytest.mark.parametrize("name", CLEAN)
def test_every_access_is_ordered(by_name: dict[str, dict[str, Any]], name: str) -> None:
    report = by_name[name]
    assert report["findings"] == {}
    assert report["operators"] > 500
    assert report["side_accesses"] > 20, "no copy and no message was seen"
    assert BY_NAME[report["case"]].ranks > report["rank"]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_seen(by_name: dict[str, dict[str, Any]], name: str) -> None:
    sign = FAULTS[FAULTY[name]].sign
    findings = by_name[name]["findings"]
    assert any(sign in finding for finding in findings), findings
    assert all("stream" in finding and ".py:" in finding for finding in findings), findings

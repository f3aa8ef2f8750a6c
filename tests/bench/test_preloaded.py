"""Servers of emulated ranks: what breaks or takes too long is a report, and the next rank runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import msgspec
import psutil
import pytest

from baselines.protocol import Role
from benchmarks.emulation.forked import preloaded
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.emulation.result import EmulationJob
from benchmarks.workloads import find

ROLE = Role(name="stage 0", rank=0, ranks=1)


@pytest.fixture
def job(tmp_path: Path) -> EmulationJob:
    """A job without a file: its rank breaks at once."""
    return EmulationJob(
        workload=find("mini-cpu"), system="native", settings={}, output_directory=str(tmp_path)
    )


@pytest.fixture
def ranks() -> Iterator[PreloadedRanks]:
    with PreloadedRanks("native", servers=1) as started:
        yield started


@pytest.mark.slow
def test_a_rank_that_breaks_leaves_its_server(ranks: PreloadedRanks, job: EmulationJob) -> None:
    for _ in range(2):
        report = ranks.emulate_rank(ROLE, job, 200.0, Event())
        assert report.status == "failed"
        assert "job.json" in report.reason
        assert report.reason.startswith("ended with exit code 1")


@pytest.mark.slow
def test_ranks_of_several_systems_have_servers_of_their_own(
    job: EmulationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preloaded, "available_cores", lambda: 1)
    started = []
    with preloaded.ranks_of_systems() as ranks_of:
        for system in ("native", "sppo", "native"):
            own = msgspec.structs.replace(job, system=system)
            report = ranks_of(system)(ROLE, own, 200.0, Event())
            assert "job.json" in report.reason
            started.append(len(psutil.Process().children()))
    assert started[1] == started[2] == started[0] + 1
    assert len(psutil.Process().children()) < started[0]


@pytest.mark.slow
def test_a_rank_out_of_time_ends_with_its_server(ranks: PreloadedRanks, job: EmulationJob) -> None:
    ended = Event()
    ended.set()
    slow = ranks.emulate_rank(ROLE, job, 200.0, ended)
    assert (slow.status, slow.reason) == ("timeout", "stopped after 200 s")
    assert ranks.emulate_rank(ROLE, job, 200.0, Event()).status == "failed"

"""An emulated role is run again unless everything that decides its counts is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from baselines.protocol import Role
from baselines.registry import load
from benchmarks.emulation.cache import Cache, code_on_disk, key, loaded_code
from benchmarks.emulation.result import EmulationJob, RoleReport
from benchmarks.job import Status
from benchmarks.workloads import find

ROLE = Role(name="stage 0", rank=0, ranks=2)
ADAPTER = load("megatron")
CODE = {"sppo/plan/plan.py": "of today", "sppo/other.py": "never loaded"}


def job_in(directory: Path, **settings: int) -> EmulationJob:
    directory.mkdir(exist_ok=True)
    return EmulationJob(
        workload=find("mini-cpu"),
        system="megatron",
        settings={"tensor_parallel": 2, **settings},
        output_directory=str(directory),
    )


def ran(job: EmulationJob, status: Status = "ok") -> RoleReport:
    """What a worker leaves."""
    made = Path(job.output_directory)
    (made / "code-0.json").write_bytes(msgspec.json.encode({"sppo/plan/plan.py": "of today"}))
    (made / "live-0.csv").write_text("operator,share\n")
    return RoleReport(role=ROLE.name, rank=0, ranks=2, status=status, flops=7)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(directory=tmp_path / "cache")


def test_the_same_again_is_reused(cache: Cache, tmp_path: Path) -> None:
    first = job_in(tmp_path / "first")
    assert cache.find(first, ROLE, ADAPTER, CODE) is None
    cache.keep(first, ROLE, ADAPTER, ran(first), CODE)
    found = cache.find(job_in(tmp_path / "second"), ROLE, ADAPTER, CODE)
    assert found is not None
    assert found.reused
    assert found.flops == 7
    assert (tmp_path / "second" / "live-0.csv").read_text() == "operator,share\n"


def test_changed_code_is_run_again(cache: Cache, tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ADAPTER, ran(job), CODE)
    changed = {**CODE, "sppo/plan/plan.py": "of tomorrow"}
    assert cache.find(job, ROLE, ADAPTER, changed) is None
    assert cache.find(job, ROLE, ADAPTER, {**CODE, "sppo/other.py": "changed"}) is not None


def test_code_that_changed_while_it_ran_is_not_kept(cache: Cache, tmp_path: Path) -> None:
    """The worker's digest is of the file on disk, which need not be what it had loaded."""
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ADAPTER, ran(job), {"sppo/plan/plan.py": "of yesterday"})
    assert not cache.directory.exists()


@pytest.mark.parametrize("status", ["failed", "timeout", "oom"])
def test_a_role_that_broke_is_not_kept(cache: Cache, tmp_path: Path, status: Status) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ADAPTER, ran(job, status), CODE)
    assert not cache.directory.exists()


def test_a_damaged_entry_is_none(cache: Cache, tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ADAPTER, ran(job), CODE)
    (entry,) = cache.directory.iterdir()
    entry.write_bytes(entry.read_bytes()[:-20])
    assert cache.find(job, ROLE, ADAPTER, CODE) is None


def test_what_decides_the_counts_decides_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    one = key(job, ROLE, ADAPTER)
    longer = replace(job.workload, sequence_tokens=1024)
    renamed = replace(job.workload, name="another")
    elsewhere = replace(job.workload, cluster=replace(job.workload.cluster, hardware="a100-80g"))
    assert key(msgspec.structs.replace(job, workload=renamed), ROLE, ADAPTER) == one
    assert key(msgspec.structs.replace(job, workload=longer), ROLE, ADAPTER) != one
    assert key(msgspec.structs.replace(job, workload=elsewhere), ROLE, ADAPTER) != one
    assert key(job_in(tmp_path, pipeline_parallel=2), ROLE, ADAPTER) != one
    assert key(job, replace(ROLE, rank=1), ADAPTER) != one
    monkeypatch.setattr(type(ADAPTER), "versions", lambda self: {"megatron-core": "0.0"})
    assert key(job, ROLE, ADAPTER) != one


def test_what_is_loaded_is_part_of_what_is_there() -> None:
    there = code_on_disk()
    loaded = {name: found for name, found in loaded_code().items() if name in there}
    assert loaded["benchmarks/emulation/cache.py"] == there["benchmarks/emulation/cache.py"]
    assert all(there[name] == found for name, found in loaded.items())
    assert "benchmarks/emulation/worker.py" in there

"""An emulated role is run again unless everything that decides its counts is the same."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from baselines.protocol import Role
from baselines.registry import load
from benchmarks import emulation_cache
from benchmarks.emulation import EmulationJob, RoleReport
from benchmarks.emulation_cache import Cache, key
from benchmarks.workloads import find

ROLE = Role(name="stage 0", rank=0, ranks=2)


def job_in(directory: Path, **settings: int) -> EmulationJob:
    directory.mkdir(exist_ok=True)
    return EmulationJob(
        workload=find("mini-cpu"),
        system="megatron",
        settings={"tensor_parallel": 2, **settings},
        output_directory=str(directory),
    )


def ran(job: EmulationJob, code: dict[str, str]) -> None:
    """What a worker leaves that came to its end."""
    made = Path(job.output_directory)
    report = RoleReport(role=ROLE.name, rank=0, ranks=2, status="ok", flops=7)
    (made / "role-0.json").write_bytes(msgspec.json.encode(report))
    (made / "code-0.json").write_bytes(msgspec.json.encode(code))
    (made / "live-0.csv").write_text("operator,share\n")


def test_the_same_again_is_reused(tmp_path: Path) -> None:
    cache, adapter = Cache(directory=tmp_path / "cache"), load("megatron")
    first = job_in(tmp_path / "first")
    assert cache.find(first, ROLE, adapter) is None
    ran(first, {"sppo/plan.py": emulation_cache.digest(emulation_cache.ROOT / "sppo/plan.py")})
    cache.keep(first, ROLE, adapter)
    second = job_in(tmp_path / "second")
    found = cache.find(second, ROLE, adapter)
    assert found is not None
    assert found.reused
    assert found.flops == 7
    assert (tmp_path / "second" / "live-0.csv").read_text() == "operator,share\n"


def test_changed_code_is_run_again(tmp_path: Path) -> None:
    cache, adapter = Cache(directory=tmp_path / "cache"), load("megatron")
    job = job_in(tmp_path / "job")
    ran(job, {"sppo/plan.py": "of yesterday"})
    cache.keep(job, ROLE, adapter)
    assert cache.find(job, ROLE, adapter) is None


def test_a_role_that_broke_is_not_kept(tmp_path: Path) -> None:
    cache, adapter = Cache(directory=tmp_path / "cache"), load("megatron")
    job = job_in(tmp_path / "job")
    ran(job, {})
    (tmp_path / "job" / "live-0.csv").unlink()
    cache.keep(job, ROLE, adapter)
    assert cache.find(job, ROLE, adapter) is None


def test_what_decides_the_counts_decides_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load("megatron")
    job = job_in(tmp_path)
    one = key(job, ROLE, adapter)
    longer = replace(job.workload, sequence_tokens=1024)
    renamed = replace(job.workload, name="another")
    assert key(msgspec.structs.replace(job, workload=renamed), ROLE, adapter) == one
    assert key(msgspec.structs.replace(job, workload=longer), ROLE, adapter) != one
    assert key(job_in(tmp_path, pipeline_parallel=2), ROLE, adapter) != one
    assert key(job, replace(ROLE, rank=1), adapter) != one
    monkeypatch.setattr(type(adapter), "versions", lambda self: {"megatron-core": "0.0"})
    assert key(job, ROLE, adapter) != one


def test_loaded_code_names_what_was_imported() -> None:
    loaded = emulation_cache.loaded_code()
    assert "benchmarks/emulation_cache.py" in loaded
    assert "sppo/profiles/a100-80g.json" in loaded
    assert all((emulation_cache.ROOT / name).is_file() for name in loaded)
    assert not any(name.startswith("tests/") for name in loaded)
    assert "sppo.workload" in sys.modules

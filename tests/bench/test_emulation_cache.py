"""An emulated role is run again unless everything that decides its counts is the same."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from baselines.protocol import Role
from baselines.registry import SYSTEMS, load
from benchmarks.emulation.cache import EmulationCache, code_digest, code_files, key
from benchmarks.emulation.result import EmulationJob, RoleReport, stale_text
from benchmarks.environment import CHECKOUT, git_state
from benchmarks.job import Status
from benchmarks.workloads import find

ROLE = Role(name="stage 0", rank=0, ranks=2)
ADAPTER = load("megatron")
CODE = code_digest("megatron")
PACKAGES = ("sppo", "baselines", "benchmarks")

NO_COUNTS = {
    "benchmarks/environment.py",
    "benchmarks/nvml.py",
    "benchmarks/file_names.py",
    "benchmarks/machine/container.py",
    "benchmarks/machine/fabric.py",
    "benchmarks/machine/files.py",
    "benchmarks/machine/packages.py",
    "benchmarks/machine/system.py",
    "benchmarks/machine/variables.py",
    "benchmarks/records/store.py",
    "benchmarks/worker/device.py",
    "benchmarks/worker/failures.py",
    "benchmarks/worker/heartbeat.py",
    "benchmarks/worker/parent.py",
    "baselines/versions.py",
}
"""What an emulated rank imports to write its report, and counts nothing by."""

PLANS = "sppo/plan/"
"""The type of a job's plans: a library's job has none. SPPO's key holds all of its code."""


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
    (made / "live-0.csv").write_text("operator,share\n")
    return RoleReport(role=ROLE.name, rank=0, ranks=2, status=status, flops=7)


@pytest.fixture
def cache(tmp_path: Path) -> EmulationCache:
    return EmulationCache(directory=tmp_path / "cache")


def test_the_same_again_is_reused(cache: EmulationCache, tmp_path: Path) -> None:
    first = job_in(tmp_path / "first")
    assert cache.find(first, ROLE, CODE) is None
    cache.keep(first, ROLE, ran(first), CODE)
    cached = cache.find(job_in(tmp_path / "second"), ROLE, CODE)
    assert cached is not None
    assert cached.reused
    assert cached.flops == 7
    assert (tmp_path / "second" / "live-0.csv").read_text() == "operator,share\n"


def test_changed_code_is_run_again(cache: EmulationCache, tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ran(job), CODE)
    assert cache.find(job, ROLE, "another digest") is None


def test_older_code_answers_only_where_it_is_accepted(
    cache: EmulationCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path / "job")
    for digest, flops in (("first digest", 1), ("second digest", 2)):
        monkeypatch.setattr("benchmarks.emulation.cache.code_digest", lambda system, it=digest: it)
        report = msgspec.structs.replace(ran(job), flops=flops)
        cache.keep(job, ROLE, report, digest)
    for number, path in enumerate(sorted(cache.directory.iterdir())):
        os.utime(path, (number, number))
    assert cache.find(job, ROLE, CODE) is None
    accepting = replace(cache, accept_stale=True)
    newest = accepting.find(job, ROLE, CODE)
    assert newest is not None
    assert (newest.flops, newest.reused) == (2, True)
    assert newest.stale_commit == git_state(CHECKOUT)[0]
    assert stale_text([newest]) == f"stale: counted at commit {newest.stale_commit[:9]}"
    present = accepting.find(job, ROLE, "first digest")
    assert present is not None
    assert (present.flops, present.stale_commit) == (1, "")
    assert stale_text([present]) == ""


def test_code_that_changed_while_it_ran_is_not_kept(cache: EmulationCache, tmp_path: Path) -> None:
    """The digest from before the run is not that of the files on disk now."""
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ran(job), "of yesterday")
    assert not cache.directory.exists()


@pytest.mark.parametrize("status", ["failed", "timeout", "oom"])
def test_a_role_that_broke_is_not_kept(
    cache: EmulationCache, tmp_path: Path, status: Status
) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ran(job, status), CODE)
    assert not cache.directory.exists()


def test_a_damaged_entry_is_none(cache: EmulationCache, tmp_path: Path) -> None:
    job = job_in(tmp_path / "job")
    cache.keep(job, ROLE, ran(job), CODE)
    (entry,) = cache.directory.iterdir()
    entry.write_bytes(entry.read_bytes()[:-20])
    assert cache.find(job, ROLE, CODE) is None


def test_what_decides_the_counts_decides_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(tmp_path)
    first = key(job, ROLE)
    longer = replace(job.workload, sequence_tokens=1024)
    renamed = replace(job.workload, name="another")
    elsewhere = replace(job.workload, cluster=replace(job.workload.cluster, hardware="a100-80g"))
    assert key(msgspec.structs.replace(job, workload=renamed), ROLE) == first
    assert key(msgspec.structs.replace(job, workload=longer), ROLE) != first
    assert key(msgspec.structs.replace(job, workload=elsewhere), ROLE) != first
    assert key(job_in(tmp_path, pipeline_parallel=2), ROLE) != first
    assert key(job, replace(ROLE, rank=1)) != first
    monkeypatch.setattr(type(ADAPTER), "versions", lambda self: {"megatron-core": "0.0"})
    assert key(job, ROLE) != first


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, to edit."""
    copy = tmp_path / "checkout"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / package, copy / package, ignore=ignored)
    return copy


@pytest.mark.parametrize(
    ("edited", "systems"),
    [
        ("baselines/megatron/patches.py", {"megatron", "megatron-ours", "megatron-te"}),
        ("baselines/deepspeed/system.py", {"deepspeed", "deepspeed-ours"}),
        ("baselines/native/sharding.py", {"native"}),
        ("baselines/reference.py", {"deepspeed", "deepspeed-ours", "native"}),
        ("baselines/attention_saving.py", {*SYSTEMS} - {"sppo"}),
        ("baselines/sppo.py", {"sppo"}),
        ("sppo/engine/engine.py", {"sppo"}),
        ("sppo/planner/solve.py", {"sppo"}),
        ("sppo/config/workload.py", set(SYSTEMS)),
        ("baselines/protocol.py", set(SYSTEMS)),
        ("benchmarks/accounting/operators.py", set(SYSTEMS)),
        ("benchmarks/emulation/counts.py", set(SYSTEMS)),
        ("benchmarks/commands/studies/paper.py", set()),
        ("benchmarks/records/record.py", set()),
        ("benchmarks/studies/sweep.py", set()),
    ],
)
def test_an_edit_changes_the_key_of_whom_it_concerns(
    edited: str, systems: set[str], checkout: Path
) -> None:
    before = {system: code_digest(system, checkout) for system in SYSTEMS}
    with (checkout / edited).open("a") as source:
        source.write("\n# edited\n")
    changed = {system for system in SYSTEMS if code_digest(system, checkout) != before[system]}
    assert changed == systems


def test_a_file_more_or_renamed_changes_the_key(checkout: Path) -> None:
    before = code_digest("megatron", checkout)
    (checkout / "baselines/megatron/more.py").touch()
    more = code_digest("megatron", checkout)
    (checkout / "baselines/megatron/more.py").rename(checkout / "baselines/megatron/other.py")
    assert len({before, more, code_digest("megatron", checkout)}) == 3


@pytest.mark.parametrize("system", SYSTEMS)
def test_all_that_a_rank_imports_is_in_its_key(system: str) -> None:
    """From the worker and the adapter on, imports inside functions too."""
    known = {str(path.relative_to(CHECKOUT)) for path in code_files(system)} | NO_COUNTS
    adapter = type(load(system)).__module__.replace(".", "/") + ".py"
    reached, waiting = set[str](), ["benchmarks/emulation/worker.py", adapter]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imported_files(CHECKOUT / name)
    packages = {name for name in reached if name.endswith("__init__.py")}
    assert len(reached) > 20
    plans = {name for name in reached if name.startswith(PLANS)}
    assert sorted(reached - packages - plans - known) == []
    assert system != "sppo" or plans <= known


def imported_files(path: Path) -> Iterator[str]:
    """The files of this project that a file imports by name, below the checkout."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.split(".")[0] in PACKAGES:
            module = node.module.replace(".", "/")
            names = [module, *(f"{module}/{alias.name}" for alias in node.names)]
            for name in names:
                for candidate in (f"{name}.py", f"{name}/__init__.py"):
                    if (CHECKOUT / candidate).is_file():
                        yield candidate

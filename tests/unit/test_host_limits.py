"""The host tier asks what the machine and its cgroups leave, before it takes anything."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from benchmarks import workloads
from benchmarks.job import Job
from benchmarks.launch import host_room, planned
from benchmarks.launch.ranks import processes
from sppo.config.errors import HostTierFull
from sppo.config.hardware import load_hardware
from sppo.config.sizes import GIB, KIB, MIB
from sppo.offload import host_limits, host_memory
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

CUDA = torch.device("cuda", 0)


class System:
    """Files of /proc and /sys/fs/cgroup in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.groups = folder / "proc", folder / "cgroup"

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self, available: int) -> None:
        text = f"MemTotal: {2 * available // KIB} kB\nMemAvailable: {available // KIB} kB\n"
        self.write(self.proc / "meminfo", text)

    def group(self, path: str, limit: int | str, used: int, cached: int = 0) -> None:
        folder = self.groups / path
        self.write(folder / "memory.max", f"{limit}\n")
        self.write(folder / "memory.current", f"{used}\n")
        self.write(folder / "memory.stat", f"anon 5\ninactive_file {cached}\nactive_file 0\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    made = System(tmp_path)
    monkeypatch.setattr(host_limits, "PROC", made.proc)
    monkeypatch.setattr(host_limits, "GROUPS", made.groups)
    made.memory(100 * GIB)
    made.write(made.proc / "self" / "cgroup", "0::/job/step\n")
    return made


def test_the_least_of_machine_and_cgroups_counts(system: System) -> None:
    assert host_limits.available_bytes() == 100 * GIB
    system.group("job/step", "max", 30 * GIB)
    assert host_limits.available_bytes() == 100 * GIB
    system.group("job", 40 * GIB, 30 * GIB, cached=6 * GIB)
    assert host_limits.available_bytes() == 16 * GIB, "cached files can be given up"
    system.group("job", 40 * GIB, 50 * GIB)
    assert host_limits.available_bytes() == 0


def test_cgroups_of_version_1_count_too(system: System) -> None:
    system.write(system.proc / "self" / "cgroup", "7:cpu:/x\n4:memory:/docker/a\n")
    folder = system.groups / "memory"  # a container sees its own group here
    system.write(folder / "memory.limit_in_bytes", str(8 * GIB))
    system.write(folder / "memory.usage_in_bytes", str(5 * GIB))
    system.write(folder / "memory.stat", f"total_inactive_file {GIB}\ninactive_file 7\n")
    assert host_limits.available_bytes() == 4 * GIB


def test_a_system_that_tells_nothing_refuses_nothing(system: System) -> None:
    (system.proc / "meminfo").unlink()
    assert host_limits.available_bytes() is None
    host_limits.check_available(10**15)


@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_too_little_memory_is_one_line_before_anything_is_taken(
    device: torch.device, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.memory(4 * MIB)
    taken: list[object] = []
    monkeypatch.setattr(host_memory, "_Mapping", lambda *args, **flags: taken.append(args))
    with pytest.raises(HostTierFull, match=r"takes 8\.0 MiB .* 4\.0 MiB are left .*; lower") as e:
        host_memory.host_memory(8 * MIB, device)
    assert "\n" not in str(e.value)
    assert not taken


class Runtime:
    def __init__(self) -> None:
        self.zero_when_locked: list[bool] = []

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        return 0


def test_memory_for_cuda_is_private_and_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    flags: list[int] = []

    class Mapping(host_memory._Mapping):
        def __new__(cls, *args: int, **given: int) -> Mapping:
            flags.append(given["flags"])
            return super().__new__(cls, *args, **given)

        def madvise(self, advice: int, *rest: int) -> None:
            asked.append(advice)

    monkeypatch.setattr(host_memory, "_Mapping", Mapping)
    monkeypatch.setattr(host_memory, "_TOUCH_BYTES", MIB)
    memory = host_memory.host_memory(5 * MIB + 3, CUDA, Runtime())
    assert memory.numel() == 5 * MIB + 3
    assert not memory.any()
    assert asked == [mmap.MADV_HUGEPAGE]
    assert flags == [mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS]
    host_memory.host_memory(4096, torch.device("cpu"))
    assert flags[1] == mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, "outside the enforced limit"
    assert len(asked) == 1


def test_every_page_is_touched_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_TOUCH_BYTES", 1000)
    memory = torch.full((4500,), 7, dtype=torch.uint8)
    host_memory._touch(memory)
    assert not memory.any()


def job_of(tmp_path: Path) -> Job:
    workload = workloads.find("gpt-7b-128k-8xh100")
    return Job(
        workload=workload,
        system="sppo",
        row="SPPO",
        launch=1,
        settings={"policy": "full-offload", "subsequences": 16},
        weights_path="",
        tokens_path="",
        output_directory=str(tmp_path),
        ranks=workload.cluster.ranks,
        warmup_steps=0,
        measured_steps=1,
    )


def test_a_node_without_room_for_all_its_ranks_launches_nothing(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path)
    plan = solve(
        job.workload,
        load_hardware("h100-80g"),
        SolverOptions(policy="full-offload", subsequences=16),
    )
    needed = host_room.host_bytes(plan, 8)
    assert needed == sum(stage.memory.host for stage in plan.stages) * plan.sequence_parallel
    assert needed > GIB
    system.memory(needed - MIB)
    started: list[Job] = []
    monkeypatch.setattr(processes, "launch", lambda job, options: started.append(job))
    outcome = planned.launch(
        job,
        processes.LaunchOptions(
            environment={}, time_limit_seconds=1.0, on_progress=lambda progress: None
        ),
    )
    assert outcome.status == "host_oom"
    assert "8 ranks" in outcome.reason
    assert "\n" not in outcome.reason
    assert not started
    system.memory(needed + MIB)
    planned.launch(
        job,
        processes.LaunchOptions(
            environment={}, time_limit_seconds=1.0, on_progress=lambda progress: None
        ),
    )
    assert len(started) == 1


def test_each_node_has_its_own_ranks() -> None:
    plan = solve(workloads.find("gpt-7b-1m-32xa100"), load_hardware("a100-80g"), SolverOptions())
    by_node = host_room.host_bytes(plan, 8)
    everything = sum(stage.memory.host + stage.memory.kv_host for stage in plan.stages)
    everything *= plan.sequence_parallel * plan.data_parallel
    assert everything / 4 <= by_node <= everything

"""A stopped search over emulations goes on: no ended emulation, and no ended role, runs twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.protocol import Role
from benchmarks import workloads
from benchmarks.emulation import resuming
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import EmulationJob, RoleReport
from benchmarks.emulation.search import Searcher, longest
from benchmarks.launch import run_file
from benchmarks.launch.resuming import ResumeError
from benchmarks.records import store

WORKLOAD = workloads.find("gpt-7b-1m-32xa100")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is written after it."""


Lengths = list[int]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Lengths]:
    """After so many emulations the next one is killed; the lengths that began."""

    def script(before_kill: int) -> Lengths:
        begun: Lengths = []

        def run(_: Emulator, job: EmulationJob, roles: Sequence[Role]) -> list[RoleReport]:
            store.save(Path(job.output_directory) / "job.json", job)
            if len(begun) == before_kill:
                raise Killed
            begun.append(job.workload.sequence_tokens)
            fits = job.workload.sequence_tokens <= 1_500_000
            return [
                RoleReport(role=role.name, rank=role.rank, ranks=role.ranks, status="ok")
                if fits
                else RoleReport(
                    role=role.name, rank=role.rank, ranks=role.ranks, status="oom", reason="full"
                )
                for role in roles
            ]

        monkeypatch.setattr(Emulator, "run", run)
        return begun

    return script


def search(folder: Path) -> Any:
    from baselines.megatron.settings import MegatronSettings

    emulator = Emulator(parent=folder, time_limit_seconds=1.0).for_search(folder)
    searcher = Searcher(workload=WORKLOAD, system="megatron", emulator=emulator)
    settings = MegatronSettings(tensor_parallel=8, pipeline_parallel=4, recompute="full")
    return longest(searcher, [settings], 2 * WORKLOAD.sequence_tokens)


@pytest.mark.parametrize("before_kill", [0, 1, 3])
def test_ended_emulations_are_read(
    before_kill: int, emulated: Callable[[int], Lengths], tmp_path: Path
) -> None:
    whole_lengths = emulated(10**6)
    whole = search(tmp_path / "whole")
    before = emulated(before_kill)
    with pytest.raises(Killed):
        search(tmp_path / "killed")
    after = emulated(10**6)
    resumed = search(tmp_path / "killed")
    assert before + after == whole_lengths
    assert resumed.longest_tokens == whole.longest_tokens
    assert resumed.trials == whole.trials
    folders = {path.parent for path in (tmp_path / "killed").rglob("job.json")}
    assert {path.parent for path in (tmp_path / "killed").rglob("emulation.json")} == folders


def test_without_the_shared_cache_the_folder_keeps_the_roles(tmp_path: Path) -> None:
    emulator = Emulator(parent=tmp_path, time_limit_seconds=1.0).for_search(tmp_path)
    assert emulator.cache is not None
    assert emulator.cache.directory == tmp_path / "roles"


def test_a_damaged_emulation_runs_again(emulated: Callable[[int], Lengths], tmp_path: Path) -> None:
    emulated(10**6)
    search(tmp_path)
    path = sorted(tmp_path.rglob("emulation.json"))[0]
    path.write_bytes(path.read_bytes()[:100])
    assert len(resuming.earlier(tmp_path)) == len(list(tmp_path.rglob("emulation.json")))
    assert not path.parent.exists()


def plan(code: dict[str, str], **environment: Any) -> run_file.RunFile:
    here = {"cpu_model": "a processor", "cores": 8, "python": "3.11.4", "gpus": []}
    return run_file.RunFile(
        command="emulate",
        arguments=["megatron"],
        workload=WORKLOAD,
        code=code,
        environment={**here, **environment},
    )


CODE = {"megatron": "0" * 64}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cores": 2}, "note: another number of cores than before: 8"),
        ({"cpu_model": "another"}, "note: another processor than before: a processor"),
        ({"python": "3.11.9"}, "note: another Python than before: 3.11.4"),
    ],
)
def test_counts_go_on_with_another_processor_and_times_do_not(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert run_file.check(tmp_path, plan(CODE), plan(CODE, **change)) == [said]
    with pytest.raises(ResumeError, match="restore that"):
        run_file.check(tmp_path, plan({}), plan({}, **change))


@pytest.mark.parametrize("change", [{"python": "3.12.4"}, {"versions": {"torch": "9.9"}}])
def test_counts_do_not_go_on_with_another_python_or_library(
    change: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ResumeError, match="restore that"):
        run_file.check(tmp_path, plan(CODE), plan(CODE, **change))


def test_the_key_is_of_workload_system_and_settings() -> None:
    settings = {"tensor_parallel": 8}
    key = resuming.key(WORKLOAD, "megatron", settings)
    assert key == resuming.key(WORKLOAD, "megatron", msgspec.to_builtins(settings))
    assert key != resuming.key(WORKLOAD.with_device_memory(None), "megatron", settings)
    assert key != resuming.key(WORKLOAD, "megatron", {"tensor_parallel": 4})

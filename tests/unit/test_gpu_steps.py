"""The steps of `sppo-bench gpu-suite`: on a CPU, and on a device that only says it is CUDA."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist

from benchmarks.gpu import suite
from benchmarks.gpu.place import FULL, TINY, Place, profile_of
from benchmarks.gpu.step import Incomplete
from benchmarks.gpu.steps import checks, runs, training
from sppo.config.hardware import load_hardware
from sppo.planner.solve import solve

CPU = torch.device("cpu")
STEPS = {step.name: step for step in suite.STEPS}
IN_PROCESS = [name for name in STEPS if not name.startswith("run-") and name != "tests"]


def place_in(folder: Path) -> Place:
    return Place(device=CPU, sizes=TINY, directory=folder, seconds=250.0)


class CudaInName(Place):
    """A CPU that answers as a GPU does: the branches of CUDA run, on tensors of the CPU."""

    @property
    def on_cuda(self) -> bool:
        return True


class FakeEvent:
    """A CUDA event with a time of its own."""

    ticks = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.ticks += 1.0
        self.time = FakeEvent.ticks

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.time - self.time


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.cuda's questions and clocks, answered without a GPU; the calls in order."""
    calls: list[str] = []

    def answer(name: str, value: Any) -> None:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return value

        monkeypatch.setattr(torch.cuda, name, call)

    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        answer(name, None)
    answer("mem_get_info", (70 * 2**30, 80 * 2**30))
    answer("memory_reserved", 9 * 2**30)
    answer("max_memory_allocated", 2**30)
    answer("get_device_name", "NVIDIA H100 80GB HBM3")
    answer("get_device_capability", (9, 0))
    answer("stream", nullcontext())
    answer("Stream", None)
    properties = type("Properties", (), {"total_memory": 80 * 2**30})
    answer("get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    from torch.cuda import _sanitizer

    monkeypatch.setattr(
        _sanitizer, "enable_cuda_sanitizer", lambda: calls.append("enable_cuda_sanitizer")
    )
    start = dist.init_process_group

    def over_gloo(backend: str, **options: Any) -> None:
        calls.append(backend)
        start("gloo", **options)

    monkeypatch.setattr(dist, "init_process_group", over_gloo)
    return calls


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_step_runs_on_a_cpu(name: str, tmp_path: Path) -> None:
    values = STEPS[name].run(place_in(tmp_path))
    assert values
    assert msgspec.json.decode(msgspec.json.encode(values))


EXPECTED_CALLS = {
    "machine": {"mem_get_info", "get_device_name", "get_device_capability"},
    "sanitizer": {"enable_cuda_sanitizer"},
    "profile": {"Stream", "nccl", "get_device_properties"},
    "offload": {"reset_peak_memory_stats", "max_memory_allocated"},
    "slice": {"synchronize"},
    "stages": {"synchronize"},
    "groups": {"nccl"},
}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_step_runs_the_branches_of_cuda(name: str, tmp_path: Path, fake_cuda: list[str]) -> None:
    place = CudaInName(device=CPU, sizes=TINY, directory=tmp_path, seconds=250.0)
    assert place.profile == "h100-80g"
    values = STEPS[name].run(place)
    assert values
    assert EXPECTED_CALLS.get(name, set()) <= set(fake_cuda)


def test_the_slice_is_timed_by_events(tmp_path: Path, fake_cuda: list[str]) -> None:
    place = CudaInName(device=CPU, sizes=TINY, directory=tmp_path)
    values = training.wide_slice(place)
    measured = values["measured_seconds_by_operation"]
    assert measured["F"] > 0
    assert set(values["simulated_seconds_by_operation"]) <= {*measured, "other"}
    starts = [entry["start_seconds"] for entry in values["timeline"]]
    assert starts == sorted(starts)
    assert starts[0] == 0.0


def test_the_measured_profile_plans(tmp_path: Path, fake_cuda: list[str]) -> None:
    place = CudaInName(device=CPU, sizes=TINY, directory=tmp_path)
    values = STEPS["profile"].run(place)
    path = tmp_path / "profile.json"
    measured = load_hardware(str(path))
    assert measured.kind == "measured"
    assert measured.device == "cuda"
    assert [row.tokens for row in measured.rates] == list(TINY.lengths)
    assert "NVIDIA H100 80GB HBM3" in measured.source
    assert measured.sources["p2p_bytes_per_second"].startswith("not measured here, as in h100-80g")
    assert values["copies"]["pinned"] is True
    assert solve(place.workload(512), measured).ranks == 1


def test_losses_that_differ_fail_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.train

    def drifting(place: Place, tokens: int, options: Any, **more: Any) -> Any:
        done = real(place, tokens, options, **more)
        if options.policy == "full-offload":
            done = done.__class__(**{**vars(done), "losses": tuple(2 * x for x in done.losses)})
        return done

    monkeypatch.setattr(training, "train", drifting)
    with pytest.raises(RuntimeError, match="losses differ"):
        training.offload(place_in(tmp_path))


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "ends"),
    [
        (0, "12 passed, 3 skipped in 4.00s", "", "passed"),
        (1, "1 failed, 11 passed in 4.00s", "", "failed"),
        (1, "", "No module named pytest", "absent"),
    ],
)
def test_the_tests_of_the_checkout_are_run(
    code: int,
    stdout: str,
    stderr: str,
    ends: str,
    tmp_path: Path,
    fake_cuda: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(checks.subprocess, "run", run)
    place = CudaInName(device=CPU, sizes=TINY, directory=tmp_path)
    if ends == "passed":
        assert checks.gpu_tests(place) == {"summary": stdout}
    else:
        words = "1 failed" if ends == "failed" else "pip install pytest"
        with pytest.raises(Exception, match=words):
            checks.gpu_tests(place)
    assert asked[0][1:4] == ["-m", "pytest", "tests/gpu"]
    assert "--collect-only" not in asked[0]


@pytest.mark.soak
def test_tests_of_the_checkout_are_found(tmp_path: Path) -> None:
    assert "tests collected" in checks.gpu_tests(place_in(tmp_path))["summary"]


@pytest.mark.slow
@pytest.mark.soak
def test_the_comparison_runs(tmp_path: Path) -> None:
    values = runs.run_16k(place_in(tmp_path))
    (row,) = values["rows"]
    assert (row["row"], row["status"], row["kernels"]) == ("SPPO", "ok", "flash")
    assert list((tmp_path / values["folder"]).glob("*/record.json"))


def test_the_comparison_of_a_gpu_asks_for_three_systems(
    tmp_path: Path, fake_cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 2, "", "error: no such thing; do that")

    monkeypatch.setattr(runs.subprocess, "run", run)
    place = CudaInName(device=CPU, sizes=TINY, directory=tmp_path)
    with pytest.raises(RuntimeError, match="error: no such thing; do that"):
        runs.run_32k(place)
    line = " ".join(asked[0])
    assert "-m benchmarks run --model gpt-1b --seq 32K --gpus 1 --hardware h100-80g" in line
    assert "--systems sppo,megatron-same-layout,deepspeed" in line
    assert "--no-wandb" in line


def test_a_comparison_out_of_time_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(runs.subprocess, "run", run)
    with pytest.raises(Incomplete, match="no end after 242 s; --resume goes on") as late:
        runs.run_32k(place_in(tmp_path))
    assert late.value.values == {}


def test_full_sizes_are_those_of_the_audit() -> None:
    assert (FULL.model.hidden, FULL.model.layers, FULL.slice_tokens) == (4096, 4, 131_072)
    assert FULL.offload_tokens == 32_768


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA H100 80GB HBM3", "h100-80g"),
        ("NVIDIA H200", "h200-141g"),
        ("NVIDIA B200", "b200-180g"),
        ("NVIDIA L40S", "h100-80g"),
    ],
)
def test_a_card_has_the_nearest_profile(card: str, name: str) -> None:
    assert profile_of(card) == name


def test_every_step_is_tested_here() -> None:
    assert {*IN_PROCESS, "tests", "run-16k", "run-32k"} == set(STEPS)

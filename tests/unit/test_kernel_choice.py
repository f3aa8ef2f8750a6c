"""Which kernel of attention a process uses: needs, force, measurement, the run and its record."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import workloads
from benchmarks.job import Job, Kernels
from benchmarks.launch import kernel_choice
from benchmarks.launch.options import Options
from benchmarks.launch.ranks.outcome import Outcome
from benchmarks.launch.recording import Inputs, make_record
from benchmarks.launch.run import make_job
from benchmarks.records.record import Text
from benchmarks.rows.row import REFERENCE, Configuration, find
from benchmarks.worker import kernels as worker_kernels
from sppo.config.errors import NotSupported
from sppo.kernels import attention, choice, fused, registry, torch_attention
from sppo.kernels.choice import Heads
from sppo.kernels.registry import KERNELS
from sppo.model.mixers.flash_blocks import check_attention

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HEADS = Heads(query=4, kv=4, width=32)


@pytest.fixture(autouse=True)
def same_kernel() -> Iterator[None]:
    """No test leaves another kernel selected."""
    before = dict(registry.selected)
    yield
    registry.selected.update(before)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A device of compute capability 9.0 with cuDNN, as far as questions go."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(choice, "check", lambda *arguments: {})
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "dtype", "width", "words"),
    [
        ("flash", torch.float32, 128, "needs bfloat16.*--attention-kernel math"),
        ("cudnn", torch.bfloat16, 256, "at most 128, a multiple of 8; take math"),
        ("flash", torch.bfloat16, 100, "a multiple of 8"),
        ("fa3", torch.bfloat16, 128, "flash_attn_interface, which is not installed"),
        ("fa4", torch.bfloat16, 128, "flash_attn.cute.interface, which is not installed"),
        ("fa9", torch.bfloat16, 128, "unknown attention kernel 'fa9'; known: flash, cudnn"),
    ],
)
def test_what_a_kernel_needs_is_said_in_one_line(
    name: str, dtype: torch.dtype, width: int, words: str, hopper: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotSupported, match=words) as refused:
        choice.select(name, CUDA, dtype, Heads(query=4, kv=4, width=width))
    assert "\n" not in str(refused.value)


def test_an_older_card_is_told_what_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    with pytest.raises(NotSupported, match=r"capability 8.0 \(A100\) or later; take math"):
        choice.select("flash", CUDA, torch.bfloat16, HEADS)


def test_a_kernel_that_never_ran_must_be_forced(hopper: pytest.MonkeyPatch) -> None:
    used: list[str | None] = []
    hopper.setattr(torch_attention, "_is_installed", lambda module: True)
    hopper.setattr(torch_attention, "registered_flash_attention", lambda: ["FA3", "FA4"])
    hopper.setattr(torch_attention, "use_registered", used.append)
    with pytest.raises(NotSupported, match=r"fa3 has never run.*--force-kernel"):
        choice.select("fa3", CUDA, torch.bfloat16, HEADS)
    assert used == []
    kernel = choice.select("fa3", CUDA, torch.bfloat16, HEADS, forced=True)
    assert used == ["FA3"]
    assert registry.selected["cuda"] is kernel
    hopper.setattr(torch.cuda, "get_device_capability", lambda device=None: (10, 0))
    with pytest.raises(NotSupported, match=r"fa3 needs compute capability 9.x, not 10"):
        choice.select("fa3", CUDA, torch.bfloat16, HEADS, forced=True)


def test_torch_knows_the_registered_names() -> None:
    listed = attention.registered_flash_attention()
    assert {"FA3", "FA4"} <= set(listed), "torch has renamed an implementation"
    attention.use_registered(None)


def test_the_fastest_right_kernel_is_chosen(hopper: pytest.MonkeyPatch) -> None:
    seconds = {"flash": 3.0, "cudnn": 2.0}
    hopper.setattr(choice, "seconds_of", lambda kernel, *rest: seconds[kernel.name])
    chosen = choice.choose(CUDA, torch.bfloat16, HEADS)
    assert (chosen.name, chosen.seconds) == ("cudnn", seconds)
    assert set(chosen.refused) == {"fa3", "fa4", "math"}

    def check(kernel: Any, *rest: Any) -> None:
        if kernel.name == "cudnn":
            raise NotSupported("attention kernel cudnn is wrong on this device")

    hopper.setattr(choice, "check", check)
    chosen = choice.choose(CUDA, torch.bfloat16, HEADS)
    assert chosen.name == "flash"
    assert "wrong on this device" in chosen.refused["cudnn"]


def test_float32_on_cuda_has_the_math_kernel(hopper: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotSupported, match="the flash kernel needs bfloat16"):
        check_attention(CUDA, torch.float32)
    hopper.setattr(choice, "seconds_of", lambda kernel, *rest: 1.0)
    assert choice.choose(CUDA, torch.float32, HEADS).name == "math"
    choice.select("math", CUDA, torch.float32, HEADS)
    check_attention(CUDA, torch.float32)


def test_a_cpu_has_todays_kernel_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "seconds_of", lambda *rest: pytest.fail("measured"))
    assert choice.choose(CPU, torch.float32, HEADS).name == "flash"
    assert choice.select("flash", CPU, torch.float32, HEADS) is KERNELS["cpu"]["flash"]
    with pytest.raises(NotSupported, match="cudnn needs CUDA; on a cpu: flash, math"):
        choice.select("cudnn", CPU, torch.float32, HEADS)


def test_times_are_taken_after_a_warm_up() -> None:
    calls: list[int] = []
    seconds = choice.median_seconds(lambda: calls.append(1), CPU, 3)
    assert len(calls) == 4
    assert math.isfinite(seconds)
    assert choice.seconds_of(KERNELS["cpu"]["flash"], CPU, torch.float32, HEADS, 32, 32) > 0


TINY, GPU = workloads.find("mini-cpu"), workloads.find("gpt-1b-32k-1xh100")


def test_the_kernel_of_a_run_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = kernel_choice.checked("auto", GPU, forced=False, fused=True)
    measured = Kernels(attention="cudnn", asked="auto", seconds={"cudnn": 0.5})
    monkeypatch.setattr(kernel_choice, "measured_kernels", lambda workload, forced: measured)
    first = kernel_choice.choose(asked, GPU, tmp_path)
    assert (first.attention, first.fused, first.asked) == ("cudnn", True, "auto")
    monkeypatch.setattr(
        kernel_choice, "measured_kernels", lambda *rest, **more: pytest.fail("twice")
    )
    assert kernel_choice.choose(asked, GPU, tmp_path) == first


def test_a_cpu_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    asked = kernel_choice.checked("auto", TINY, forced=False, fused=False)
    chosen = kernel_choice.choose(asked, TINY, tmp_path)
    assert (chosen.attention, chosen.asked) == ("flash", "auto")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "forced", "fused", "words"),
    [
        ("cudnn", False, False, "no such kernel on a CPU.*take auto, flash, math"),
        ("fast", False, False, "--attention-kernel fast: no such kernel; take"),
        ("auto", False, True, "leave --fuse out: it is for CUDA"),
        ("auto", True, False, "leave --force-kernel out"),
    ],
)
def test_wrong_flags_are_refused(name: str, forced: bool, fused: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kernel_choice.checked(name, TINY, forced=forced, fused=fused)


def test_the_names_of_the_flag_are_those_of_the_registry() -> None:
    assert kernel_choice.NAMES == registry.NAMES
    assert tuple(KERNELS["cpu"]) == kernel_choice.OF_CPUS


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU measures")
def test_the_measurement_is_a_process_of_its_own() -> None:
    """On a CPU it answers at once, and with the words of a refusal where it fails."""
    assert worker_kernels.measured_kernels(TINY, forced=False).attention == "flash"
    with pytest.raises(NotSupported, match=r"were not measured: .*name one instead"):
        worker_kernels.measured_kernels(GPU, forced=False)


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "workload": TINY,
        "system": "sppo",
        "row": "SPPO",
        "launch": 1,
        "settings": {},
        "weights_path": "",
        "tokens_path": "",
        "output_directory": "",
        "ranks": 2,
        "warmup_steps": 1,
        "measured_steps": 1,
    }
    return Job(**{**values, **changes})


def test_a_rank_uses_the_job_s_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    fused_on: list[torch.device] = []
    monkeypatch.setattr(fused, "fuse", fused_on.append)
    worker_kernels.use_kernels(job(kernels=Kernels(attention="math", fused=True)), CPU)
    assert registry.selected["cpu"].name == "math"
    assert fused_on == [CPU]
    with pytest.raises(NotSupported, match="cudnn needs CUDA"):
        worker_kernels.use_kernels(job(kernels=Kernels(attention="cudnn")), CPU)


def test_the_reference_has_torch_s_own_choice() -> None:
    before = registry.selected["cpu"]
    reference = job(system="reference", kernels=Kernels(attention="math"))
    worker_kernels.use_kernels(reference, CPU)
    assert registry.selected["cpu"] is before


def test_the_kernels_come_into_the_job_and_the_record(tmp_path: Path) -> None:
    chosen = Kernels(attention="math", asked="math")
    inputs = Inputs(
        workload=TINY,
        directory=tmp_path,
        text=Text(description="", sha256=""),
        cpu_peak=None,
        environment={"cores": 2},
        kernels=chosen,
    )
    for row, expected in ((find(("sppo",))[0], chosen), (REFERENCE, None)):
        configuration = Configuration(row=row)
        made = make_job(inputs, configuration, 1, Options())
        assert made.kernels == chosen
        outcome = Outcome(status="failed", reason="planted", reports=[])
        record = make_record(inputs, configuration, made, outcome, datetime.now(UTC))
        assert record.kernels == expected

"""Estimates against whole models, on the real libraries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest

from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.megatron.settings import MegatronSettings
from baselines.native.settings import NativeSettings
from baselines.protocol import roles_of
from baselines.registry import load
from benchmarks.emulation import processes
from benchmarks.emulation.depth.bound import least_seconds
from benchmarks.emulation.depth.estimates import Estimate, Estimator
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.forked.preloaded import PreloadedRanks
from benchmarks.emulation.result import Counts
from benchmarks.records import store
from benchmarks.workloads import of_flags
from sppo.config.hardware import load_hardware

SMALL = of_flags(model="gpt-tiny", seq="4K", gpus=2, hardware="a100-80g")
WORKLOAD = replace(SMALL, model=replace(SMALL.model, layers=8))

CASES: dict[str, Any] = {
    "deepspeed": DeepSpeedSettings(sequence_parallel=2, zero_stage=3, checkpointing="blocks"),
    "megatron": MegatronSettings(context_parallel=2, recompute="block", recompute_layers=4),
    "native": NativeSettings(sequence_parallel=2, checkpointing="save-attention"),
}


FURTHER = [pytest.param(name, marks=pytest.mark.soak) for name in ("megatron", "deepspeed")]


@pytest.fixture(params=["native", *FURTHER])
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def emulator(system: str, tmp_path: Path) -> Iterator[Emulator]:
    with PreloadedRanks(system, servers=1) as ranks:
        yield Emulator(parent=tmp_path, time_limit_seconds=200.0, run_rank=ranks.emulate_rank)


def estimate_of(system: str, emulator: Emulator, *, checked: bool) -> Estimate:
    estimator = Estimator(system=system, emulator=emulator)
    (estimate,) = estimator.estimates(WORKLOAD, [CASES[system]], system, checked=checked)
    assert estimate is not None
    return estimate


@pytest.mark.slow
def test_an_estimate_is_the_whole_model(system: str, emulator: Emulator) -> None:
    """FLOPs, messages and time are equal. A checked peak is at most 0.1 % above the whole one.

    In so small a model buffers are a large part of the peak, and may fill up with few layers.
    """
    estimate = estimate_of(system, emulator, checked=False)
    assert estimate.trial.emulated == "extrapolated"
    whole = emulator.emulate(WORKLOAD, system, estimate.settings)
    counted, extrapolated = whole.roles[0].counts, estimate.emulation.roles[0].counts
    assert counted is not None
    assert extrapolated is not None
    assert linear(extrapolated) == linear(counted)
    assert whole.simulated_time is not None
    assert estimate.trial.step_seconds == pytest.approx(whole.simulated_time.step_seconds, rel=1e-6)
    least = least_seconds(WORKLOAD, estimate.settings, load_hardware("a100-80g"))
    assert least < whole.simulated_time.step_seconds
    peak_bytes = estimate_of(system, emulator, checked=True).trial.peak_device_bytes
    assert peak_bytes is not None
    assert 0.9 < peak_bytes / counted.peak_device_bytes <= 1.001


def linear(counts: Counts) -> dict[str, Any]:
    """What is linear in layers without a doubt."""
    plain: dict[str, Any] = msgspec.to_builtins(counts)
    return {name: plain[name] for name in ("flops", "flops_by_operation", "communication")}


@pytest.mark.slow
@pytest.mark.soak
def test_a_forked_rank_counts_as_one_of_its_own_process(
    system: str, emulator: Emulator, tmp_path: Path
) -> None:
    workload = replace(WORKLOAD, model=replace(WORKLOAD.model, layers=4))
    settings = CASES[system]
    adapter = load(system)
    (role,) = roles_of(adapter, workload, settings)
    reports = []
    for name, run in (("forked", emulator.run_rank), ("own", processes.emulate_rank)):
        folder = tmp_path / name
        folder.mkdir()
        job = processes.make_job(workload, adapter, settings, folder)
        store.save(folder / "job.json", job)
        reports.append(run(role, job, 200.0, Event()))
    forked, own = reports
    assert forked.status == "ok", forked.reason
    assert forked.counts == own.counts
    curves = [(tmp_path / name / "live-0.csv").read_bytes() for name in ("forked", "own")]
    assert curves[0] == curves[1]

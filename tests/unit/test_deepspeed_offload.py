"""DeepSpeed's settings for CUDA alone: the optimizer on the host, and FPDT."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from baselines.deepspeed import adapter, offloaded, ours
from baselines.deepspeed.adapter import ADAPTER
from baselines.deepspeed.engine_config import engine_config
from baselines.deepspeed.settings import DeepSpeedSettings, of_flags
from baselines.protocol import Context, Unavailable, check_emulated
from sppo.config.workload import Optimizer
from tests.unit.grid_checks import workload

ON_CUDA = workload(device="cuda", dtype="bfloat16")
CPU_RANK = Context(rank=0, ranks=2, device=torch.device("cpu"), dtype=torch.float32)
OFFLOADED = DeepSpeedSettings(sequence_parallel=2, zero_stage=2, offload_optimizer=True)
FPDT = DeepSpeedSettings(sequence_parallel=2, fpdt=True)


def test_the_engine_is_told_of_a_pinned_optimizer_on_the_cpu():
    zero = engine_config(ON_CUDA, OFFLOADED, 1)["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    plain = dataclasses.replace(OFFLOADED, offload_optimizer=None)
    assert "offload_optimizer" not in engine_config(ON_CUDA, plain, 1)["zero_optimization"]


def test_an_offloaded_optimizer_needs_cuda_and_a_stage():
    ADAPTER.check(ON_CUDA, OFFLOADED)
    words = "Ulysses 2, ZeRO-2, optimizer on the host (offload_optimizer)"
    assert ADAPTER.describe(OFFLOADED) == words
    for refuse in (
        lambda: ADAPTER.check(workload(), OFFLOADED),
        lambda: check_emulated(ADAPTER, ON_CUDA, OFFLOADED),
        lambda: ADAPTER.prepare(ON_CUDA, OFFLOADED, {}, CPU_RANK),
    ):
        with pytest.raises(Unavailable, match="CUDA alone, by a rule of this suite") as refused:
            refuse()
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="ZeRO-1, 2 and 3: choose a stage"):
        dataclasses.replace(OFFLOADED, zero_stage=0)


def test_the_leanest_points_of_cuda_alone_offload_the_optimizer():
    grid = ADAPTER.grid(ON_CUDA)
    offloaded_points = [settings for settings in grid if settings.offload_optimizer]
    assert len(offloaded_points) == 3
    assert all(s.zero_stage == 3 and s.host_hidden_states for s in offloaded_points)
    assert grid[-1] == offloaded_points[-1]
    assert not any(settings.offload_optimizer for settings in ADAPTER.grid(workload()))


def test_flags_of_cuda_alone_are_deepspeeds_own():
    settings = of_flags({"zero": 2, "offload_optimizer": True}, workload())
    assert settings == OFFLOADED
    assert of_flags({"fpdt": True}, workload()) == FPDT
    assert not {"offload_optimizer", "fpdt", "host_hidden_states"} & set(ours.FLAGS)


def test_without_its_operator_torchs_adamw_takes_the_step(monkeypatch, caplog):
    monkeypatch.setattr(offloaded, "_why_no_cpu_adam", lambda: "no compiler")
    model = torch.nn.Linear(4, 4)
    optimizer = offloaded.cpu_optimizer(model, Optimizer())
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] > 0 for group in optimizer.param_groups] == [True, False]
    assert offloaded.config_for(optimizer) == {"zero_force_ds_cpu_optimizer": False}
    assert "DeepSpeedCPUAdam does not build here (no compiler)" in caplog.text


def test_fpdt_is_refused_in_the_librarys_words(monkeypatch):
    layer = pytest.importorskip("deepspeed.sequence.fpdt_layer")
    monkeypatch.setattr(layer, "_flash_attn_forward", None)
    with pytest.raises(ImportError) as theirs:
        layer.FPDT_Attention(None, None, None, None, None, None)
    assert str(theirs.value) == adapter.FPDT_NEEDS
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="fpdt: DeepSpeed FPDT requires flash-attn"):
        ADAPTER.check(ON_CUDA, FPDT)
    monkeypatch.setattr(adapter, "find_spec", lambda name: object())
    with pytest.raises(Unavailable, match="no decoder for DeepSpeed's FPDT_Attention"):
        ADAPTER.check(ON_CUDA, FPDT)

"""The peers' CUDA branches on fake CUDA tensors: their libraries' own code takes whole steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sppo.plan.weights import parameter_count
from tests.cuda.fake_cuda_peer import FAULTS, TOKENS
from tests.cuda.fake_cuda_rank import reports
from tests.cuda.peer_cases import BY_NAME, CASES, GPT

FLASH = "aten::_scaled_dot_product_flash_attention"
HOSTED = "ZeRO-1, hosted"
OFFLOADED = ("ZeRO-3, hosted, optimizer on the host", "ZeRO-1, optimizer on the host")
FURTHER = ("ZeRO-1, optimizer on the host", "FSDP2, TP 2 x ring 2")
"""Cases of `tox -e soak-cases`."""
FAULTY = {f"{HOSTED}:{fault}": fault for fault in FAULTS}

BFLOAT16, FLOAT32 = ["cuda:0 bfloat16"], ["cuda:0 float32"]


@pytest.fixture(scope="module")
def by_name(fake_cuda: Path, request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """One process for all that will run: it imports the libraries once."""
    names = {
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "name" in item.callspec.params
    }
    names.add("ZeRO-2, overlap")  # others are compared with it: it hosts nothing
    return reports(fake_cuda, sorted(names), "tests.cuda.fake_cuda_peer")


def cases(*names: str) -> list[Any]:
    """Cases by name, the further ones with their mark."""
    return [
        pytest.param(name, marks=[pytest.mark.soak] if name in FURTHER else []) for name in names
    ]


@pytest.mark.parametrize("name", cases(*BY_NAME))
def test_a_step_runs_on_the_device(by_name: dict[str, dict[str, Any]], name: str) -> None:
    """Flash attention as often as the checkpointing says, and float32 masters."""
    case, report = BY_NAME[name], by_name[name]
    operators, places = report["operators"], report["places"]
    assert operators[FLASH] == case.attentions
    turns = case.settings.get("context_parallel", 1)
    assert operators[f"{FLASH}_backward"] == turns * case.model.layers
    assert case.messages <= operators.keys()
    assert places["optimizer"] == [f"{case.optimizer_device} float32"]
    assert places["weights"] == (FLOAT32 if case.system == "native" else BFLOAT16)
    assert report["unordered"] == []


@pytest.mark.parametrize(
    "name", cases(*(case.name for case in CASES if case.system in ("deepspeed", "native")))
)
def test_adamw_is_fused(by_name: dict[str, dict[str, Any]], name: str) -> None:
    assert "aten::_fused_adamw_" in by_name[name]["operators"]


@pytest.mark.parametrize("name", ["ZeRO-2, overlap", "FSDP2", "FSDP2, Ulysses 2"])
def test_messages_have_streams_of_their_own(by_name: dict[str, dict[str, Any]], name: str) -> None:
    report = by_name[name]
    assert report["streams"] > 1
    assert report["side_accesses"] > 20


@pytest.mark.parametrize("name", cases(*OFFLOADED))
def test_deepspeed_hosts_the_optimizer(by_name: dict[str, dict[str, Any]], name: str) -> None:
    """float32 weights and gradients are in locked pages; torch's AdamW steps on the CPU."""
    report = by_name[name]
    assert report["inside"]["basic_optimizer"] == "AdamW"
    shard_bytes = 4 * parameter_count(BY_NAME[name].model) // BY_NAME[name].ranks
    assert report["pinned_bytes"] >= shard_bytes
    assert by_name["ZeRO-2, overlap"]["pinned_bytes"] == 0


@pytest.mark.parametrize("name", [HOSTED, OFFLOADED[0]])
def test_deepspeed_hosts_hidden_states(by_name: dict[str, dict[str, Any]], name: str) -> None:
    """Its context copies all but the last block's input; the one before is still on the device."""
    report, ranks = by_name[name], BY_NAME[name].ranks
    hidden_bytes = TOKENS // ranks * GPT.hidden * 2
    stats = report["inside"]["offload"]
    assert stats["marked_tensors"] == GPT.layers
    assert stats["offloaded_tensors"] == stats["restored_tensors"] == GPT.layers - 1
    assert stats["kept_last_tensors"] == 1
    assert stats["skipped_marked_tensors"] == 0
    assert stats["offloaded_bytes"] == 2 * hidden_bytes
    # The optimizer's gradients come on top.
    assert report["copied_bytes"]["cuda to cpu"] >= 2 * hidden_bytes
    assert report["copied_bytes"]["cpu to cuda"] == hidden_bytes


@pytest.mark.parametrize("name", FAULTY)
def test_a_planted_fault_is_seen(by_name: dict[str, dict[str, Any]], name: str) -> None:
    assert any("without an order" in finding for finding in by_name[name]["unordered"])

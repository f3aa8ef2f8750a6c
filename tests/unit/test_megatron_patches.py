"""Which patches a run of Megatron needs: a played library, no ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from baselines.megatron import patches
from baselines.megatron.patches import apply_patches
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Unavailable

CUDA = torch.device("cuda")
NORMS = MegatronSettings(recompute="modules", recompute_modules=("layernorm",))
ID = "layernorm-recompute"


def played_library(
    monkeypatch: pytest.MonkeyPatch, release: str, *, faulty: bool, has_te: bool = False
) -> SimpleNamespace:
    """tensor_parallel, whose name a patch rebinds."""

    class CheckpointWithoutOutput:
        def __init__(self, fp8: bool | None = False) -> None:
            self.fp8 = fp8 is not None if faulty else bool(fp8)

    random = SimpleNamespace(CheckpointWithoutOutput=CheckpointWithoutOutput, HAVE_TE=has_te)
    package = SimpleNamespace(CheckpointWithoutOutput=CheckpointWithoutOutput)
    modules = {
        "megatron.core.tensor_parallel.random": random,
        "megatron.core.tensor_parallel": package,
    }
    played = SimpleNamespace(import_module=modules.__getitem__)
    monkeypatch.setattr(patches, "importlib", played)
    monkeypatch.setattr(patches, "version", lambda name: release)
    return package


@pytest.mark.parametrize("release", ["0.15.0", "0.16.1", "0.17.0"])
def test_the_patch_follows_the_fault_and_not_the_release(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    package = played_library(monkeypatch, release, faulty=True)
    assert apply_patches(CUDA, "nccl", MegatronSettings()) == ()
    assert package.CheckpointWithoutOutput().fp8
    assert apply_patches(CUDA, "nccl", NORMS) == (ID,)
    assert not package.CheckpointWithoutOutput().fp8


@pytest.mark.parametrize(("faulty", "has_te"), [(False, False), (True, True)])
def test_a_library_without_the_fault_stays_as_shipped(
    monkeypatch: pytest.MonkeyPatch, faulty: bool, has_te: bool
) -> None:
    played_library(monkeypatch, "0.16.1", faulty=faulty, has_te=has_te)
    assert apply_patches(CUDA, "nccl", NORMS) == ()


@pytest.mark.parametrize("release", ["0.15.0", "0.17.0"])
def test_patches_of_the_cpu_are_written_for_known_releases(
    monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    played_library(monkeypatch, release, faulty=True)
    with pytest.raises(Unavailable, match=f"megatron-core {release}: patch held-sends is written"):
        apply_patches(torch.device("cpu"), "gloo", MegatronSettings())

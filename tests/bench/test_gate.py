"""The gate catches a system that maps weights wrongly: real training, broken on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines import registry
from baselines.protocol import Context
from benchmarks import workloads
from benchmarks.records.equal_work import TOLERANCE, equal_work
from benchmarks.records.record import StepRecord
from benchmarks.worker import tokens as data
from benchmarks.worker.weights import initial_weights

WORKLOAD = workloads.find("mini-cpu")
STEPS = 3


def train(weights: Mapping[str, Tensor], tokens: Tensor) -> list[StepRecord]:
    adapter = registry.load("reference")
    context = Context(rank=0, ranks=1, device=torch.device("cpu"), dtype=torch.float32)
    system = adapter.prepare(WORKLOAD, adapter.settings_type(), weights, context)
    steps = []
    for batch in tokens:
        result = system.step(batch)
        steps.append(
            StepRecord(
                phase="measured",
                tokens=batch[:, 1:].numel(),
                seconds=0.0,
                loss=result.loss,
                grad_norm=result.grad_norm,
            )
        )
    return steps


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    path: Path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    data.token_file(WORKLOAD, STEPS, path)
    return torch.from_numpy(data.map_tokens(path).astype("int64"))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("layers.1.attention.query.weight", "layers.1.attention.key.weight"),
        ("layers.0.norm1.weight", "layers.0.norm2.weight"),
        ("layers.0.attention.output.bias", "layers.0.mlp.down.bias"),
    ],
)
def test_a_wrong_weight_mapping_is_a_mismatch(tokens: Tensor, name: str, instead: str) -> None:
    weights = initial_weights(WORKLOAD.model, WORKLOAD.seed, torch.float32)
    broken = {**weights, name: weights[instead]}
    rows = {"right": train(weights, tokens), "wrong": train(broken, tokens)}
    found = equal_work(rows, train(weights, tokens), tolerance=TOLERANCE["float32"])
    assert list(found) == ["wrong"]
    assert found["wrong"].step == 0

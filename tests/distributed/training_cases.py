"""Training cases of a system whose losses and norms are compared with the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet

from baselines import reference, registry
from baselines.protocol import Context, StepResult
from benchmarks.worker.weights import initial_weights, torch_dtype
from sppo.config.models import Model, gpt, llama
from sppo.config.sizes import Dtype
from sppo.config.workload import Cluster, Optimizer, Workload
from tests.ranks import run_ranks

RANKS = 2
RECIPE = Optimizer(clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""

GPT = gpt("gpt-test", layers=4, hidden=64, heads=4, vocabulary=128)
LLAMA = llama(
    "llama-test", layers=4, hidden=64, heads=4, kv_heads=2, ffn=176, vocabulary=128, rope_theta=1e4
)
ONE_KV_HEAD = llama(
    "llama-1kv", layers=4, hidden=64, heads=4, kv_heads=1, ffn=176, vocabulary=128, rope_theta=1e4
)


NO_CASES = SimpleNamespace(params={})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training run; `swap` are two canonical weights given to it the wrong way round."""

    system: str
    settings: Any
    model: Model = GPT
    sequences: int = 1
    dtype: Dtype = "float32"
    ranks: int = RANKS
    swap: tuple[str, str] | None = None

    @property
    def workload(self) -> Workload:
        return Workload(
            name="test",
            model=self.model,
            cluster=Cluster(hardware="cpu", device="cpu", nodes=1, ranks_per_node=self.ranks),
            sequence_tokens=256,
            sequences_per_step=self.sequences,
            dtype=self.dtype,
            optimizer=RECIPE,
        )

    def __str__(self) -> str:
        words = registry.load(self.system).describe(self.settings)
        return f"{self.model.name}, {self.sequences} x {self.dtype}, {words}"


def further(*cases: Case) -> list[ParameterSet]:
    """Cases of `tox -e soak`: no setting of theirs is without a case in `tox`."""
    return [pytest.param(case, marks=pytest.mark.soak) for case in cases]


def cases_of(request: pytest.FixtureRequest) -> tuple[Case, ...]:
    """The cases of all tests of a file that will run, once each."""
    asked = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "case" in getattr(item, "callspec", NO_CASES).params
    ]
    return tuple(dict.fromkeys(asked))


def steps(workload: Workload) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randint(
            workload.model.vocabulary,
            (workload.sequences_per_step, tokens + 1),
            generator=generator,
        )
        for tokens in (64, workload.sequence_tokens, workload.sequence_tokens)
    ]


def context(rank: int, ranks: int, dtype: Dtype) -> Context:
    return Context(rank=rank, ranks=ranks, device=torch.device("cpu"), dtype=torch_dtype(dtype))


def train(rank: int, ranks: int, cases: tuple[Case, ...]) -> list[list[StepResult]]:
    results = []
    for case in cases:
        workload = case.workload
        weights = initial_weights(case.model, workload.seed, torch_dtype(case.dtype))
        if case.swap is not None:
            first, second = case.swap
            weights[first], weights[second] = weights[second], weights[first]
        system = registry.load(case.system).prepare(
            workload, case.settings, weights, context(rank, ranks, case.dtype)
        )
        results.append([system.step(tokens) for tokens in steps(workload)])
        held = {kind: list(tensors) for kind, tensors in system.tensors().items()}
        assert held["weights"]
        assert held["optimizer"]
        system.close()
    return results


def train_reference(case: Case, workload: Workload | None = None) -> list[StepResult]:
    workload = workload or case.workload
    weights = initial_weights(case.model, workload.seed, torch_dtype(case.dtype))
    system = reference.ADAPTER.prepare(
        workload, reference.ReferenceSettings(), weights, context(0, 1, case.dtype)
    )
    return [system.step(tokens) for tokens in steps(workload)]


def train_all(cases: Sequence[Case], ranks: int = RANKS) -> dict[Case, list[list[StepResult]]]:
    """Every case in one world of so many processes: case -> steps of each rank."""
    by_rank = run_ranks(train, ranks, tuple(cases))
    return {case: [results[index] for results in by_rank] for index, case in enumerate(cases)}


def differences(got: list[StepResult], wanted: list[StepResult]) -> tuple[float, float]:
    """The largest relative difference of losses, and of gradient norms."""
    pairs = list(zip(got, wanted, strict=True))
    return (
        max(abs(a.loss / b.loss - 1) for a, b in pairs),
        max(abs(a.grad_norm / b.grad_norm - 1) for a, b in pairs),
    )

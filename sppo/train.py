"""The training step of one rank: the schedule, the global norm, the clip, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sppo.attention import check_attention
from sppo.checker import check_schedule
from sppo.comm import GroupTransport
from sppo.engine import Engine, StepCounters
from sppo.model import StageWeights
from sppo.options import SolverOptions
from sppo.plan import Plan, check_plan
from sppo.profile import Profile
from sppo.program import build_schedule
from sppo.runtime import Runtime
from sppo.schedule import Schedule
from sppo.solver import solve
from sppo.stage import Stage
from sppo.workload import Optimizer, Workload

NORM_CHUNK = 16_384
"""Elements per partial norm: one float32 sum over a whole stage loses the fifth digit."""


class FlatAdamW:
    """AdamW over a stage's flat buffers; float32 state, and float32 masters for bfloat16 weights.

    `step` gets the factor that the global-norm clip asks for.
    """

    def __init__(self, weights: StageWeights, recipe: Optimizer) -> None:
        self.weights = weights
        self._working = (weights.matrices, weights.vectors)
        gradients = (weights.matrix_gradients, weights.vector_gradients)
        precision = gradients[0].dtype
        self.masters = [nn.Parameter(working.to(precision)) for working in self._working]
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient
        groups = [
            {"params": [self.masters[0]], "weight_decay": recipe.weight_decay},
            {"params": [self.masters[1]], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            fused=True,
        )
        self._shared = self.masters[0].dtype == weights.matrices.dtype

    def squared_norm(self) -> Tensor:
        """Sum of squares of this stage's gradients, float64 scalar."""
        parts = [
            part
            for master in self.masters
            if master.grad is not None
            for part in master.grad.split(NORM_CHUNK)
        ]
        norms = torch._foreach_norm(parts)
        return torch.stack(norms).double().square().sum()

    def step(self, factor: float) -> None:
        for master in self.masters:
            if factor < 1.0 and master.grad is not None:
                master.grad.mul_(factor)
        self.optimizer.step()
        if not self._shared:
            for working, master in zip(self._working, self.masters, strict=True):
                working.copy_(master.detach())

    def tensors(self) -> list[Tensor]:
        states = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return states if self._shared else [*states, *self.masters]


class Trainer:
    """SPPO on one rank, over the default process group; rank p is pipeline stage p.

    A step of another length than the plan's (the harness's short first step) gets a small plan of
    its own, without limits and offload.
    """

    def __init__(
        self,
        workload: Workload,
        plan: Plan,
        profile: Profile,
        weights: Mapping[str, Tensor],
        runtime: Runtime,
        rank: int,
    ) -> None:
        check_plan(plan, workload)
        check_attention(runtime.device, runtime.dtype)
        self.workload = workload
        self.plan = plan
        self.profile = profile
        self.runtime = runtime
        self.rank = rank
        self.weights = StageWeights(
            plan.model,
            plan.stages[rank].layers,
            weights,
            runtime.device,
            runtime.dtype,
            head=plan.stages[rank].head,
        )
        self.optimizer = FlatAdamW(self.weights, workload.optimizer)
        self.transport = GroupTransport()
        self.engine = self._engine(plan)
        self.counters = StepCounters()

    def _engine(self, plan: Plan) -> Engine:
        schedule: Schedule = build_schedule(plan)
        check_schedule(schedule)
        stage = Stage(plan, self.rank, self.weights, self.runtime, self.transport)
        return Engine(schedule, stage, self.transport)

    def _short_engine(self, tokens: int) -> Engine:
        workload = replace(
            self.workload,
            sequence_tokens=tokens,
            device_memory_bytes=None,
            host_memory_bytes=None,
        )
        options = SolverOptions(
            subsequences=min(2, tokens),
            sequence_parallel=1,
            virtual_stages=self.plan.virtual_stages,
            head_alone=self.plan.head_alone,
            policy="no-offload",
        )
        return self._engine(solve(workload, self.profile, options))

    def step(self, tokens: Tensor) -> tuple[float, float]:
        """One optimizer step on int64 [sequences, T + 1]; returns (loss, gradient norm)."""
        tokens = tokens.to(self.runtime.device)
        length = tokens.shape[1] - 1
        engine = self.engine
        if length != self.plan.sequence_tokens:
            engine = self._short_engine(length)
        self.weights.zero_gradients()
        self.counters = engine.run(tokens)
        totals = torch.stack(
            (
                torch.tensor(self.counters.loss, dtype=torch.float64, device=self.runtime.device),
                self.optimizer.squared_norm(),
            )
        )
        dist.all_reduce(totals)
        loss, squared_norm = totals.tolist()
        norm = squared_norm**0.5
        clip = self.workload.optimizer.clip_norm
        self.optimizer.step(min(1.0, clip / (norm + 1e-6)))
        return loss, norm

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        """Live tensors of this rank by kind, for the accounting."""
        weights = self.weights
        totals: dict[Any, list[Tensor]] = {
            "weights": [weights.matrices, weights.vectors],
            "gradients": [weights.matrix_gradients, weights.vector_gradients],
            "optimizer": self.optimizer.tensors(),
        }
        for kind, tensors in self.engine.stage.tensors().items():
            totals[kind] = [*totals.get(kind, []), *tensors]
        return totals

"""The training step of one rank: schedule, reduction of gradients, global norm, clip, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sppo.comm.mesh import RankGroups
from sppo.config.workload import Workload
from sppo.engine.connections import connections_of
from sppo.engine.context import EngineContext
from sppo.engine.engine import Engine, StepCounters
from sppo.engine.optimizer import FlatAdamW
from sppo.engine.stage import Stage
from sppo.model.mixers.flash_blocks import check_attention
from sppo.model.weights import StageWeights
from sppo.plan.plan import Plan, StepPlans, check_plan
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.dependencies import Schedule


class Trainer:
    """SPPO on one rank.

    Steps are of two lengths: that of the whole plan, and that of the short one (the harness's first
    step). Each plan has an engine of its own; weights and optimizer state are the same.
    """

    def __init__(
        self,
        workload: Workload,
        plans: StepPlans,
        weights: Mapping[str, Tensor],
        context: EngineContext,
        groups: RankGroups,
    ) -> None:
        plan = plans.whole
        check_plan(plan, workload)
        check_attention(context.device, context.dtype)
        self.workload = workload
        self.plan = plan
        self.short_plan = plans.short
        self.context = replace(context, team=groups.shards)
        self.groups = groups
        stage = plan.stages[groups.coordinate.stage]
        self.weights = StageWeights(
            plan.model,
            stage.layers,
            weights,
            context.device,
            context.dtype,
            head=stage.head,
            shard=groups.shard,
            replicas=plan.data_parallel,
        )
        self.optimizer = FlatAdamW(self.weights, workload.optimizer, groups.replicas)
        self.engine = self._engine(plan)
        self.counters = StepCounters()

    def _engine(self, plan: Plan) -> Engine:
        schedule: Schedule = build_schedule(plan)
        check_schedule(schedule)
        groups = self.groups
        groups.transport.connect(connections_of(schedule), self.context.device)
        stage = Stage(plan, groups.coordinate.stage, self.weights, self.context, groups.transport)
        return Engine(schedule, stage, groups.transport)

    def _engine_of(self, tokens: int) -> Engine:
        """The engine of a step's length; that of the short step is made anew and not kept."""
        if tokens == self.plan.sequence_tokens:
            return self.engine
        if tokens == self.short_plan.sequence_tokens:
            return self._engine(self.short_plan)
        raise ValueError(
            f"no plan for a step of {tokens:,} tokens: the plans are of "
            f"{self.plan.sequence_tokens:,} and {self.short_plan.sequence_tokens:,}"
        )

    def _mine(self, tokens: Tensor) -> Tensor:
        """The sequences of a step that pass this replica."""
        replica, each = self.groups.coordinate.replica, self.plan.sequences
        return tokens[replica * each : (replica + 1) * each]

    def step(self, tokens: Tensor) -> tuple[float, float]:
        """One optimizer step on int64 [sequences, T + 1]; returns (loss, gradient norm)."""
        length = tokens.shape[1] - 1
        engine = self._engine_of(length)
        self.weights.zero_gradients()
        scale = 1.0 / (tokens.shape[0] * length)
        self.counters = engine.run(self._mine(tokens).to(self.context.device), scale)
        stage = self.groups.coordinate.stage
        self.context.note(f"stage {stage}, waits for its other ranks: sums of gradients")
        self.optimizer.reduce(self.groups.shards)
        totals = torch.stack(
            (
                torch.tensor(self.counters.loss, dtype=torch.float64, device=self.context.device),
                self.optimizer.squared_norm(self.groups.shard),
            )
        )
        self.context.note(f"stage {stage}, waits for all ranks: loss and norm")
        self.groups.everyone.all_reduce(totals)
        loss, squared_norm = totals.tolist()
        norm = squared_norm**0.5
        clip = self.workload.optimizer.clip_norm
        self.context.note(f"stage {stage}, AdamW")
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

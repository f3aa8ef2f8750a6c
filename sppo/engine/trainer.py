"""The training step of one rank: schedule, reduction of gradients, global norm, clip, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sppo.comm.mesh import RankGroups
from sppo.config.workload import Workload
from sppo.engine.context import EngineContext
from sppo.engine.engine import Engine, StepCounters, build_engine
from sppo.engine.optimizer import FlatAdamW
from sppo.model.mixers.flash_blocks import check_attention
from sppo.model.weights import StageWeights
from sppo.plan.plan import StepPlans, check_plan


class Trainer:
    """SPPO on one rank.

    Steps are of two lengths: that of the whole plan, and that of the short one (the harness's first
    step). Each plan has an engine of its own, with the same weights and optimizer state.

    weights: canonical and full-size, copied. Raises ValueError where a plan does not fit the
    workload, and NotSupported where attention has no kernel for the device and dtype.
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
        self.clip_norm = workload.optimizer.clip_norm
        self.plan = plan
        self.short_plan = plans.short
        self.context = context
        self.groups = groups
        stage, shards = groups.coordinate.stage, groups.shards
        self.weights = StageWeights(
            plan, stage, weights, context.device, context.dtype, shards, groups.copies
        )
        self.optimizer = FlatAdamW(self.weights, workload.optimizer, groups.copies)
        self.engine = build_engine(plan, self.weights, context, groups)
        self.counters = StepCounters()

    def _engine_of(self, tokens: int) -> Engine:
        """The engine of a step's length; that of the short step is built anew and not kept."""
        if tokens == self.plan.sequence_tokens:
            return self.engine
        if tokens == self.short_plan.sequence_tokens:
            return build_engine(self.short_plan, self.weights, self.context, self.groups)
        raise ValueError(
            f"no plan for a step of {tokens:,} tokens: the plans are of "
            f"{self.plan.sequence_tokens:,} and {self.short_plan.sequence_tokens:,}"
        )

    def step(self, tokens: Tensor) -> tuple[float, float]:
        """One optimizer step on int64 [sequences, T + 1]; returns (loss, gradient norm)."""
        length = tokens.shape[1] - 1
        replica, sequences = self.groups.coordinate.replica, self.plan.sequences
        own = tokens[replica * sequences : (replica + 1) * sequences]
        engine = self._engine_of(length)
        self.weights.zero_gradients()
        scale = 1.0 / (tokens.shape[0] * length)
        self.counters = engine.run(own.to(self.context.device), scale)
        stage = self.groups.coordinate.stage
        self.context.note(f"stage {stage}, waits for its other ranks: sums of gradients")
        self.optimizer.reduce(self.groups.shards)
        totals = torch.stack(
            (
                torch.tensor(self.counters.loss, dtype=torch.float64, device=self.context.device),
                self.optimizer.squared_norm(self.groups.shards),
            )
        )
        self.context.note(f"stage {stage}, waits for all ranks: loss and norm")
        self.groups.everyone.all_reduce(totals)
        loss, squared_norm = totals.tolist()
        norm = squared_norm**0.5
        self.context.note(f"stage {stage}, AdamW")
        self.optimizer.step(min(1.0, self.clip_norm / (norm + 1e-6)))
        return loss, norm

    def tensors(self) -> Mapping[Any, list[Tensor]]:
        """Live tensors of this rank by kind, for the accounting."""
        buffers = self.engine.stage.buffers.tensors
        own = {**self.weights.tensors(), "optimizer": self.optimizer.tensors()}
        return {kind: own.get(kind, []) + buffers.get(kind, []) for kind in {**own, **buffers}}

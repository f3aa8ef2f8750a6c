"""SPPO behind the same small protocol as its peers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from torch import Tensor

from baselines.protocol import Context, Kind, StepResult
from sppo.errors import NotBuilt
from sppo.options import SolverOptions
from sppo.plan import Plan
from sppo.profile import load_profile
from sppo.runtime import Runtime
from sppo.solver import solve
from sppo.train import Trainer
from sppo.workload import Workload

SppoSettings = SolverOptions
"""What the user may fix is what the solver takes."""


class SppoSystem:
    """One rank of the engine."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def step(self, tokens: Tensor) -> StepResult:
        loss, grad_norm = self.trainer.step(tokens)
        return StepResult(loss=loss, grad_norm=grad_norm)

    def tensors(self) -> Mapping[Kind, Iterable[Tensor]]:
        return self.trainer.tensors()

    def timeline(self) -> list[dict[str, Any]]:
        """The last step's instructions in the simulator's lanes; times from one host's clock."""
        compute = dict.fromkeys(("F", "B", "Z", "AW"), "compute")
        lanes = {"O": "d2h", "T": "h2d", **compute}
        return [
            {
                "name": str(timed.instruction),
                "lane": lanes.get(timed.instruction.op.value, "p2p"),
                "start_ns": timed.start_ns,
                "end_ns": timed.end_ns,
            }
            for timed in self.trainer.counters.timeline
        ]

    def close(self) -> None:
        """The process group belongs to the worker."""


class SppoAdapter:
    name = "sppo"
    settings_type = SppoSettings
    environment: Mapping[str, str] = {}
    remark = ""

    def grid(self, workload: Workload) -> tuple[SppoSettings, ...]:
        """The solver chooses; there is nothing to search."""
        return (SppoSettings(),)

    def plan(self, workload: Workload, settings: SppoSettings) -> Plan:
        """The plan these settings give, for this version's engine: a pipeline without SP.

        Raises Infeasible, NotBuilt or ValueError.
        """
        ranks, layers = workload.cluster.ranks, workload.model.layers
        if settings.sequence_parallel not in (None, 1) or ranks > layers:
            raise NotBuilt(
                f"{ranks} ranks and {layers} layers need sequence parallelism inside a stage, "
                "which this version's engine plans (sppo-bench plan) but cannot run"
            )
        profile = load_profile(workload.cluster.hardware)
        return solve(workload, profile, replace(settings, sequence_parallel=1))

    def check(self, workload: Workload, settings: SppoSettings) -> None:
        """The solver says what cannot run, with its reason, when the plan is made."""

    def describe(self, settings: SppoSettings) -> str:
        count = "auto" if settings.subsequences is None else str(settings.subsequences)
        return f"solver: N {count}, {settings.policy} offload"

    def versions(self) -> dict[str, str]:
        return {"sppo": version("sppo-suite"), "torch": version("torch")}

    def prepare(
        self,
        workload: Workload,
        settings: SppoSettings,
        weights: Mapping[str, Tensor],
        context: Context,
    ) -> SppoSystem:
        plan = self.plan(workload, settings)
        if plan.pipeline_parallel != context.ranks:
            raise ValueError(f"the plan needs {plan.pipeline_parallel} ranks, not {context.ranks}")
        runtime = Runtime(
            device=context.device, dtype=context.dtype, label=context.label, note=context.note
        )
        profile = load_profile(workload.cluster.hardware)
        return SppoSystem(Trainer(workload, plan, profile, weights, runtime, context.rank))


ADAPTER = SppoAdapter()

"""SPPO behind the protocol of all systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError
from itertools import groupby
from typing import Any

from torch import Tensor

from baselines.protocol import Adapter, Context, Kind, Role, StepResult, System, Weights
from baselines.versions import version
from sppo.comm.mesh import MeshCoordinate, join_groups, rank_of
from sppo.config.hardware import load_hardware
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.offload.host_memory import host_memory
from sppo.plan.blocks.attention import ring_slots
from sppo.plan.plan import Plan, StepPlans
from sppo.planner.options import SolverOptions
from sppo.planner.short_step import short_plan
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.dependencies import Schedule

SppoSettings = SolverOptions
"""The user may fix the options of the solver."""

FLAGS = (
    "pipeline_parallel",
    "sequence_parallel",
    "ulysses_parallel",
    "context_parallel",
    "data_parallel",
    "subsequences",
    "virtual_stages",
    "policy",
    "stage_sharding",
    "weights",
    "exchange_pieces",
    "msp",
)
"""The flags of `sppo-bench emulate` that are settings of SPPO, under the solver's names."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> SppoSettings:
    """The settings of these flags; the solver chooses the rest. Raises ValueError."""
    return SppoSettings(**given)


@lru_cache(maxsize=16)
def _solved(workload: Workload, settings: SppoSettings) -> Plan:
    """Roles, ranks and reports of one layout use the same plan."""
    return solve(workload, load_hardware(workload.cluster.hardware), settings)


@lru_cache(maxsize=16)
def _shortened(workload: Workload, settings: SppoSettings, tokens: int) -> Plan:
    plan = _solved(workload, settings)
    if tokens == plan.sequence_tokens:
        return plan
    return short_plan(workload, plan, load_hardware(workload.cluster.hardware), tokens)


def _stage_role(plan: Plan, schedule: Schedule, cluster: Cluster, stage: int) -> tuple[Any, ...]:
    """A key of the stage's memory, instructions and place in its node; part numbers are relative.

    The place decides which links carry its messages. With MSP every stage helps different owners.
    """
    stage_plan = plan.stages[stage]
    parts = [replace(part, layers=(0, len(part.layer_range))) for part in stage_plan.parts]
    instructions = [each._replace(part=each.part - stage) for each in schedule.stages[stage]]
    place = _first_rank(plan, stage) % cluster.ranks_per_node if cluster.nodes > 1 else 0
    helper = stage if plan.msp_splits else None
    return (not stage, parts, stage_plan.memory, place, instructions, helper)


def _first_rank(plan: Plan, stage: int) -> int:
    return rank_of(plan, MeshCoordinate(replica=0, stage=stage, shard=0))


def _role(plan: Plan, stages: Sequence[int]) -> Role:
    """The role of these stages; the first represents them."""
    first = stages[0]
    ends = (("embedding", not first), ("head", plan.stages[first].head))
    words = ", ".join(word for word, is_here in ends if is_here)
    name = f"stage {first}" if len(stages) == 1 else f"stages {first} to {stages[-1]}"
    return Role(
        name=name + (f" ({words})" if words else ""),
        rank=_first_rank(plan, first),
        ranks=len(stages) * plan.sequence_parallel * plan.data_parallel,
    )


class SppoSystem(System):
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
        return [
            {
                "name": str(timed.instruction),
                "lane": timed.instruction.op.lane,
                "start_ns": timed.start_ns,
                "end_ns": timed.end_ns,
            }
            for timed in self.trainer.counters.timeline
        ]

    def close(self) -> None:
        """The process group belongs to the worker."""


class SppoAdapter(Adapter):
    """The solver plans, and the engine follows the plans."""

    name = "sppo"
    settings_type = SppoSettings
    environment: Mapping[str, str] = {
        # A receive that is posted ahead must not share a hardware queue with a kernel it waits for.
        "CUDA_DEVICE_MAX_CONNECTIONS": "32",
        "CUDA_MODULE_LOADING": "EAGER",
    }

    def grid(self, workload: Workload) -> tuple[SppoSettings, ...]:
        """One point: the solver chooses."""
        return (SppoSettings(),)

    def plan(self, workload: Workload, settings: SppoSettings) -> Plan:
        """The plan of these settings. Raises Infeasible, NotSupported or ValueError."""
        return _solved(workload, settings)

    def check(self, workload: Workload, settings: SppoSettings) -> None:
        """Nothing: the solver refuses what cannot run, with its reason."""

    def step_plans(
        self, workload: Workload, settings: SppoSettings, short_tokens: int
    ) -> StepPlans:
        """The solver's plan, and that of a first step of `short_tokens` in the same layout."""
        return StepPlans(
            whole=self.plan(workload, settings), short=_shortened(workload, settings, short_tokens)
        )

    def solver(self, settings: SppoSettings) -> str:
        return settings.solver

    def roles(self, workload: Workload, settings: SppoSettings) -> tuple[Role, ...]:
        """Neighbouring stages with the same role, with all their shards and replicas."""
        plan = self.plan(workload, settings)
        schedule = build_schedule(plan)
        role_of = partial(_stage_role, plan, schedule, workload.cluster)
        by_role = groupby(range(len(plan.stages)), role_of)
        return tuple(_role(plan, list(stages)) for _, stages in by_role)

    def describe(self, settings: SppoSettings) -> str:
        count = "auto" if settings.subsequences is None else str(settings.subsequences)
        return f"solver: N {count}, {settings.policy} offload"

    def versions(self) -> dict[str, str]:
        try:
            own = version("sppo-suite")
        except PackageNotFoundError:  # a checkout that was not installed
            own = "checkout"
        return {"sppo": own, "torch": version("torch")}

    def prepare(
        self, workload: Workload, settings: SppoSettings, weights: Weights, context: Context
    ) -> SppoSystem:
        """The engine under the plans of `context`. Raises ValueError where there are none."""
        plans = context.plans
        if plans is None:
            raise ValueError("SPPO's ranks follow plans and make none: give Context its `plans`")
        groups = join_groups(plans.whole, context.message_timeout)
        engine_context = EngineContext(
            device=context.device,
            dtype=context.dtype,
            label=context.label,
            note=context.note,
            take_host=context.take_host or host_memory,
            ring_slots=ring_slots(workload.cluster.device),
        )
        return SppoSystem(Trainer(workload, plans, weights, engine_context, groups))


ADAPTER = SppoAdapter()

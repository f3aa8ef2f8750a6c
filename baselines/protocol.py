"""The small protocol that every system meets, SPPO included. The adapters only set up and step.

    adapter = registry.load("megatron")
    system = adapter.prepare(workload, settings, weights, context)
    result = system.step(tokens)        # one optimizer step on [sequences, S + 1] token ids

Weights, tokens, loss check, FLOPs, timers and memory readers live outside, in `benchmarks/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from sppo.config.workload import Workload
from sppo.plan.plan import Plan, StepPlans

Kind = Literal[
    "weights",
    "gradients",
    "optimizer",
    "kv",
    "dkv",
    "activations",
    "staging",
    "temporary",
    "host",
]
"""What a storage holds. "host" is the host tier; everything else lies on the device.

"activations": kept from a forward for its backward. Unlabelled storages are "temporary".
"""


class Unavailable(RuntimeError):
    """The library cannot run this here; the message is the library's own words where it has any."""


class Misfit(Unavailable):
    """Ranks, sequences or tokens do not divide by the degrees asked for: other numbers would do."""


def _no_label(kind: Kind, tensor: torch.Tensor) -> None:
    """Outside the accounted step nobody listens."""


def _no_note(doing: str) -> None:
    """Without a launch around it nobody asks where a rank is."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a system runs. The default process group exists already (gloo, NCCL or torch's fake).

    `message_timeout` is for groups that a system makes itself (None: the backend's default).
    `take_host(bytes, device)` takes memory of the host tier (None: as the system does it).
    `plans` are what the launcher has planned for all ranks of a system that plans (`Planner`).
    `label(kind, tensor)` tells the accounting what a storage holds; `note(text)` says what this
    rank does next, "waits" in it where that needs another rank. Systems may call both, none must.
    """

    rank: int
    ranks: int
    device: torch.device
    dtype: torch.dtype
    message_timeout: timedelta | None = None
    plans: StepPlans | None = None
    label: Callable[[Kind, torch.Tensor], None] = _no_label
    note: Callable[[str], None] = _no_note
    take_host: Callable[[int, torch.device], torch.Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Mean loss over all tokens of the step, and the global gradient norm before clipping.

    Both are the same on every rank.
    """

    loss: float
    grad_norm: float


class System(Protocol):
    """One system, set up on one rank."""

    def step(self, tokens: torch.Tensor) -> StepResult:
        """One whole optimizer step: forward, backward, clip, AdamW.

        tokens: int64 [sequences_per_step, T + 1], the same on every rank; inputs are [:, :-1] and
        targets [:, 1:]. T is the workload's sequence_tokens, or 64 in the throw-away first step.
        """
        ...

    def tensors(self) -> Mapping[Kind, Iterable[torch.Tensor]]:
        """The live weights, gradients and optimizer state of this rank, for the accounting."""
        ...

    def timeline(self) -> list[dict[str, Any]]:
        """What the last step did and when, a list of {name, lane, start_ns, end_ns, ...}.

        Empty where the system does not say.
        """
        ...

    def close(self) -> None:
        """Give back groups and buffers; the process ends soon after."""
        ...


@runtime_checkable
class Brief(System, Protocol):
    """A system that also steps on fewer sequences than its workload has; its loss is off then."""

    def least_sequences(self) -> int:
        """How many it takes for the next step to be like any other."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """One library behind the protocol; `settings` are a frozen dataclass of its own.

    `name`: under which the registry has it.
    """

    name: str
    settings_type: type
    environment: Mapping[str, str]
    """Variables that must be set before the worker imports torch or the library."""

    remark: str
    """What the reader of a row must know of this adapter, or nothing."""

    def grid(self, workload: Workload) -> tuple[Any, ...]:
        """Every setting worth a measurement on this workload's ranks, cheapest first."""
        ...

    def check(self, workload: Workload, settings: Any) -> None:
        """Raise Unavailable with the library's reason if these settings cannot run. No torch."""
        ...

    def describe(self, settings: Any) -> str:
        """The settings in the field's words, short: "TP2 SP recompute mlp"."""
        ...

    def versions(self) -> dict[str, str]:
        """Installed versions of the library and what it stands on, without importing it."""
        ...

    def prepare(
        self,
        workload: Workload,
        settings: Any,
        weights: Mapping[str, torch.Tensor],
        context: Context,
    ) -> System:
        """Build model and optimizer from canonical weights (`sppo.plan.weights.weight_shapes`).

        `weights` are full-size, shared and read-only (memory-mapped): copy what this rank owns.
        Raises Unavailable, or sppo.config.errors.Infeasible.
        """
        ...


@runtime_checkable
class Planner(Adapter, Protocol):
    """An adapter that plans before the launch. Its ranks are given the plans and make none.

    Its grid has one point, with which it plans freely.
    """

    def plan(self, workload: Workload, settings: Any) -> Plan:
        """The plan of a whole step, the same each time. Raises Infeasible, NotBuilt, ValueError."""
        ...

    def step_plans(self, workload: Workload, settings: Any, short_tokens: int) -> StepPlans:
        """The same, with the plan of a first step of `short_tokens` tokens a sequence."""
        ...

    def solver(self, settings: Any) -> str:
        """The name of the solver that plans under these settings."""
        ...


@runtime_checkable
class Follower(Adapter, Protocol):
    """An adapter that can take the layout of another system's plan."""

    def same_layout(self, workload: Workload, pipeline_parallel: int, tensor_parallel: int) -> Any:
        """Settings of that layout with full recompute, as the paper has its baselines."""
        ...


@dataclass(frozen=True, kw_only=True)
class Role:
    """Ranks that hold, compute and send alike; `rank` stands for all `ranks` of them."""

    name: str
    rank: int
    ranks: int


@runtime_checkable
class Grouped(Protocol):
    """An adapter that knows which ranks are alike; of any other, every rank is a role."""

    def roles(self, workload: Workload, settings: Any) -> tuple[Role, ...]:
        """Every rank of the workload belongs to one of these. No torch."""
        ...


def roles_of(adapter: Adapter, workload: Workload, settings: Any) -> tuple[Role, ...]:
    """The roles of these settings, every rank one where the adapter does not group them."""
    if isinstance(adapter, Grouped):
        return adapter.roles(workload, settings)
    ranks = range(workload.cluster.ranks)
    return tuple(Role(name=f"rank {rank}", rank=rank, ranks=1) for rank in ranks)

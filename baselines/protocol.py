"""The protocol of every system, SPPO included. An adapter only sets up a system, which steps.

    adapter = registry.load("megatron")
    system = adapter.prepare(workload, settings, weights, context)
    result = system.step(tokens)        # one optimizer step on [sequences, S + 1] token ids

Weights, tokens, loss check, FLOPs, timers and memory readers are in `benchmarks/`, outside the
adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from sppo.config.workload import Workload
from sppo.plan.plan import Plan, StepPlans

if TYPE_CHECKING:
    import torch

Kind = Literal[
    "weights", "gradients", "optimizer", "kv", "dkv", "activations", "staging", "temporary", "host"
]
"""What a storage holds. "host" is the host tier; all other kinds lie on the device.

"activations": saved tensors of a forward. Storages without a label are "temporary".
"""

Weights = Mapping[str, "torch.Tensor"]
"""Full-size weights by canonical name (`sppo.plan.weights.weight_shapes`)."""


class Unavailable(RuntimeError):
    """The library cannot run this here; the message is the library's own words where it has any."""


class Misfit(Unavailable):
    """Ranks, sequences or tokens do not divide by the degrees asked for: other numbers would do."""


def _no_label(kind: Kind, tensor: torch.Tensor) -> None:
    """The default outside the accounted step."""


def _no_note(text: str) -> None:
    """The default without a launch around the rank."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The rank of a system, its device, and optional callbacks. No system must use a callback.

    The default process group exists already (gloo, NCCL or torch's fake one). `message_timeout` is
    for further groups of a system (None: the backend's default). `plans` are the launcher's plans
    for all ranks of a `Planner`'s system. `label(kind, tensor)` tells the accounting what a storage
    holds. `note(text)` says what this rank does next, with "waits" where it needs another rank.
    `take_host(bytes, device)` takes memory of the host tier (None: as the system does it).
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


def state_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of a torch optimizer's state, for `System.tensors`."""
    import torch

    values = (value for state in optimizer.state.values() for value in state.values())
    return [value for value in values if isinstance(value, torch.Tensor)]


class System(Protocol):
    """One system, set up on one rank."""

    def step(self, tokens: torch.Tensor) -> StepResult:
        """One whole optimizer step: forward, backward, clip, AdamW.

        tokens: int64 [sequences_per_step, T + 1], the same on every rank; inputs are [:, :-1] and
        targets [:, 1:]. T is the workload's sequence_tokens, or 64 in the throw-away first step.
        """

    def tensors(self) -> Mapping[Kind, Iterable[torch.Tensor]]:
        """The live weights, gradients and optimizer state of this rank, for the accounting."""

    def timeline(self) -> list[dict[str, Any]]:
        """The last step as a list of {name, lane, start_ns, end_ns, ...}; empty by default."""
        return []

    def close(self) -> None:
        """Free groups and buffers; the process ends soon after."""


@runtime_checkable
class Brief(System, Protocol):
    """A system that also steps on fewer sequences than its workload; then its loss is wrong."""

    def least_sequences(self) -> int:
        """How many sequences of a first step make the next step like any later one."""


@runtime_checkable
class Adapter(Protocol):
    """One library behind the protocol; its `settings` are a frozen dataclass.

    `name`: the adapter's name in the registry.
    """

    name: str
    settings_type: type
    environment: Mapping[str, str] = {}
    """Variables that must be set before the worker imports torch or the library."""

    remark: str = ""
    """A remark for readers of a row of this system, or nothing."""

    def grid(self, workload: Workload) -> tuple[Any, ...]:
        """All settings to measure on this workload's ranks, cheapest first."""

    def check(self, workload: Workload, settings: Any) -> None:
        """Raise Unavailable with the library's reason if these settings cannot run. No torch."""

    def describe(self, settings: Any) -> str:
        """The settings in short field terms: "TP2 SP recompute mlp"."""

    def versions(self) -> dict[str, str]:
        """Installed versions of the library and of torch, without an import of them."""

    def prepare(
        self, workload: Workload, settings: Any, weights: Weights, context: Context
    ) -> System:
        """Build model and optimizer.

        `weights` are shared and read-only (memory-mapped): copy this rank's shards. Raises
        Unavailable, or sppo.config.errors.Infeasible.
        """


@runtime_checkable
class Planner(Adapter, Protocol):
    """An adapter that plans before the launch. Its ranks follow the plans of their `Context`.

    Its grid has one point, which leaves all choices to the planner.
    """

    def plan(self, workload: Workload, settings: Any) -> Plan:
        """The plan of a whole step, the same each time.

        Raises Infeasible, NotSupported or ValueError.
        """

    def step_plans(self, workload: Workload, settings: Any, short_tokens: int) -> StepPlans:
        """The same, with the plan of a first step of `short_tokens` tokens a sequence."""

    def solver(self, settings: Any) -> str:
        """The name of the solver that plans under these settings."""


@runtime_checkable
class Follower(Adapter, Protocol):
    """An adapter that can take the layout of another system's plan."""

    def same_layout(
        self,
        workload: Workload,
        pipeline_parallel: int,
        tensor_parallel: int,
        context_parallel: int = 1,
    ) -> Any:
        """Settings of that layout with full recompute, as in the paper's baselines."""


@runtime_checkable
class PartlyEmulated(Protocol):
    """An adapter with settings that only real devices can run."""

    def check_emulated(self, workload: Workload, settings: Any) -> None:
        """Raise Unavailable for settings that no emulation can run. No torch."""


def check_emulated(adapter: Adapter, workload: Workload, settings: Any) -> None:
    """As `Adapter.check`, for an emulation. What none can run is said first."""
    if isinstance(adapter, PartlyEmulated):
        adapter.check_emulated(workload, settings)
    adapter.check(workload, settings)


@runtime_checkable
class FurtherTuned(Protocol):
    """An adapter with points that a measured grid has besides those of `Adapter.grid`."""

    def measured_alone(self, workload: Workload) -> tuple[Any, ...]:
        """Settings that no emulation can weigh, and that a measurement on this device can."""


def measured_grid(adapter: Adapter, workload: Workload) -> tuple[Any, ...]:
    """All settings that `run --tune` measures."""
    further = adapter.measured_alone(workload) if isinstance(adapter, FurtherTuned) else ()
    return (*adapter.grid(workload), *further)


@runtime_checkable
class Untried(Protocol):
    """An adapter whose system has never run in this suite, on any machine (docs/gpu.md)."""

    never_ran: str
    """What has never run, for the refusal."""


def check_tried(adapter: Adapter, *, forced: bool) -> None:
    """Raise Unavailable for a system that has never run, unless the user forces it."""
    if isinstance(adapter, Untried) and not forced:
        raise Unavailable(
            f"{adapter.never_ran} has never run in this suite (docs/gpu.md): leave {adapter.name} "
            "out, or try it by --force-kernel of sppo-bench run"
        )


@dataclass(frozen=True, kw_only=True)
class Role:
    """`ranks` ranks with equal memory, compute and messages; `rank` represents them."""

    name: str
    rank: int
    ranks: int


@runtime_checkable
class Grouped(Protocol):
    """An adapter that knows which ranks have one role. Without it every rank is a role."""

    def roles(self, workload: Workload, settings: Any) -> tuple[Role, ...]:
        """Every rank of the workload belongs to one of these. No torch."""


def roles_of(adapter: Adapter, workload: Workload, settings: Any) -> tuple[Role, ...]:
    """The roles of these settings; one role for each rank where the adapter groups none."""
    if isinstance(adapter, Grouped):
        return adapter.roles(workload, settings)
    ranks = range(workload.cluster.ranks)
    return tuple(Role(name=f"rank {rank}", rank=rank, ranks=1) for rank in ranks)

"""The device of the steps, their sizes, and training on it in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppo.comm.in_process import connect_threads, run_together
from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS, Model, gpt
from sppo.config.sizes import GIB, MIB, Dtype
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.plan.plan import Plan, StepPlans
from sppo.plan.weights import weight_shapes
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the steps are: tokens, bytes, repeats, and the model that they train."""

    model: Model
    lengths: tuple[int, ...]
    prefix_tokens: int
    repeats: int
    attention_tokens: int
    copied_bytes: int
    offload_tokens: int
    slice_tokens: int
    stages_tokens: int
    subsequences: int


FULL = Sizes(
    model=MODELS["gpt-7b-slice"],
    lengths=(128, 512, 1024, 2048, 4096, 8192, 16384, 65536),
    prefix_tokens=16384,
    repeats=4,
    attention_tokens=16384,
    copied_bytes=GIB,
    offload_tokens=32 * 1024,
    slice_tokens=128 * 1024,
    stages_tokens=16 * 1024,
    subsequences=8,
)

TINY = Sizes(
    model=gpt("gpt-small", layers=4, hidden=64, heads=4, vocabulary=256),
    lengths=(64, 128),
    prefix_tokens=128,
    repeats=2,
    attention_tokens=256,
    copied_bytes=MIB,
    offload_tokens=512,
    slice_tokens=512,
    stages_tokens=512,
    subsequences=4,
)
"""For a CPU, in tests: every line of a step runs in seconds."""

PROFILES = (
    ("A100", "a100-80g"),
    ("H100", "h100-80g"),
    ("H200", "h200-141g"),
    ("B200", "b200-180g"),
)
"""A part of a card's name, and the committed profile of such cards."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The device of a step, its sizes, the suite's folder, and the seconds it may take."""

    device: torch.device
    sizes: Sizes
    directory: Path
    seconds: float = 60.0

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> Dtype:
        """The dtype of the steps: bfloat16 on a GPU."""
        return "bfloat16" if self.on_cuda else "float32"

    @property
    def device_name(self) -> str:
        """The card's name; "cpu" without one."""
        return torch.cuda.get_device_name(self.device) if self.on_cuda else "cpu"

    @cached_property
    def profile(self) -> str:
        """The committed profile of such cards, by which steps are planned."""
        if not self.on_cuda:
            return "cpu-2core"
        return profile_of(self.device_name)

    def finish(self) -> None:
        """Wait for the device; a CPU is never behind."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def start_peak(self) -> None:
        """Begin to count the peak of device memory."""
        if self.on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        """The peak of live tensors since `start_peak`; None on a CPU."""
        return int(torch.cuda.max_memory_allocated(self.device)) if self.on_cuda else None

    def seconds_of(self, action: Callable[[], object]) -> float:
        """Time of an action, with the wait for the device."""
        self.finish()
        start = time.perf_counter()
        action()
        self.finish()
        return time.perf_counter() - start

    def workload(self, tokens: int, ranks: int = 1) -> Workload:
        """A training step of the place's model; the device limit is that of the profile."""
        profile = load_hardware(self.profile)
        return Workload(
            name=f"gpu-suite-{tokens}",
            model=self.sizes.model,
            cluster=Cluster(
                hardware=self.profile,
                device="cuda" if self.on_cuda else "cpu",
                nodes=1,
                ranks_per_node=ranks,
            ),
            sequence_tokens=tokens,
            dtype=self.dtype,
            device_memory_bytes=profile.usable_device_bytes if self.on_cuda else None,
            host_memory_bytes=profile.host_memory_bytes_per_rank,
        )


def profile_of(device_name: str) -> str:
    """The committed profile of the nearest card; that of an H100 for an unknown one."""
    for part, profile in PROFILES:
        if part in device_name:
            return profile
    return "h100-80g"


def random_weights(model: Model, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Canonical name -> random values, made on the device: for times, not for equal work."""
    torch.manual_seed(1)
    weights = {}
    for name, shape in weight_shapes(model).items():
        value = 0.02 * torch.randn(shape, device=device, dtype=dtype)
        weights[name] = value + 1 if "norm" in name and name.endswith("weight") else value
    return weights


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Steps of one or more ranks, as threads: the plan, and loss, norm and seconds of each step."""

    plan: Plan
    losses: tuple[float, ...]
    norms: tuple[float, ...]
    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def values(self) -> dict[str, Any]:
        """The numbers for a step's file."""
        planned = [stage.memory.total for stage in self.plan.stages]
        return {
            "subsequences": len(self.plan.lengths_tokens),
            "losses": list(self.losses),
            "gradient_norms": list(self.norms),
            "step_seconds": list(self.seconds),
            "peak_bytes": self.peak_bytes,
            "planned_peak_bytes": sum(planned),
            "planned_host_bytes": sum(s.memory.host + s.memory.kv_host for s in self.plan.stages),
        }


Note = Callable[[str], None]


def train(
    place: Place,
    tokens: int,
    options: SolverOptions,
    *,
    steps: int = 2,
    ranks: int = 1,
    notes: Sequence[Note] = (),
) -> Trained:
    """Plan and run so many optimizer steps on the device; the first one warms up.

    notes: one for each rank, called before every instruction.
    """
    workload = place.workload(tokens, ranks)
    plan = solve(workload, load_hardware(place.profile), options)
    dtype = getattr(torch, place.dtype)
    weights = random_weights(workload.model, place.device, dtype)
    groups = connect_threads(plan)
    trainers = [
        _trainer(place, workload, plan, weights, groups[rank], *notes[rank : rank + 1])
        for rank in range(ranks)
    ]
    del weights
    batch = torch.randint(0, workload.model.vocabulary, (1, tokens + 1))
    results, seconds = [], []
    for step in range(steps):
        if step + 1 == steps:
            place.start_peak()
        start = time.perf_counter()
        results.append(run_together(groups, lambda rank: trainers[rank].step(batch))[0])
        place.finish()
        seconds.append(time.perf_counter() - start)
    losses, norms = zip(*results, strict=True)
    return Trained(
        plan=plan,
        losses=losses,
        norms=norms,
        seconds=tuple(seconds),
        peak_bytes=place.peak_bytes(),
    )


def _trainer(
    place: Place,
    workload: Workload,
    plan: Plan,
    weights: Mapping[str, Tensor],
    groups: Any,
    *notes: Note,
) -> Trainer:
    context = EngineContext(device=place.device, dtype=getattr(torch, place.dtype))
    if notes:
        context = replace(context, note=notes[0])
    return Trainer(workload, StepPlans(whole=plan, short=plan), weights, context, groups)

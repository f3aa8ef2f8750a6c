"""The engine of all ranks in one process, each a thread: for notebooks, examples and tests.

    training = run_in_threads(plan, weights, batches)
    training.losses, training.gradient_norms, training.ranks[0].kept_peak_bytes

Every rank runs the `Trainer` of a real launch. Only messages and collectives differ: they pass
through the memory of this process. CPU only.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sppo.comm.in_process import connect_threads, run_together
from sppo.comm.messages import Traffic
from sppo.config.sizes import Dtype
from sppo.config.workload import Cluster, Optimizer, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.plan.plan import Plan, StepPlans

_DTYPES: dict[int, Dtype] = {2: "bfloat16", 4: "float32", 8: "float64"}
"""Element bytes of a plan -> the dtype of its compute."""


@dataclass(frozen=True, kw_only=True)
class RankCounts:
    """Counts of one rank in its last step, and its coordinate in the plan's mesh.

    `kept_peak_bytes`, of activations between their forward and backward, equals the plan's
    `stages[stage].memory.kept_peak`; messages and bytes sent to other stages equal the
    simulation's `messages[stage]` and `message_bytes[stage]`.
    """

    replica: int
    stage: int
    shard: int
    kept_peak_bytes: int
    host_peak_bytes: int
    offloaded_bytes: int
    fetched_bytes: int
    messages: int
    message_bytes: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """Loss and gradient norm (before clipping) of every step; counts of the last step by rank."""

    losses: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    ranks: tuple[RankCounts, ...]


def run_in_threads(
    plan: Plan,
    weights: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    *,
    optimizer: Optimizer | None = None,
) -> Training:
    """Train under the plan, one optimizer step for each batch, all ranks as threads.

    weights: canonical and full-size (`sppo.plan.weight_shapes`), copied, never changed. batches:
    int64 [sequences_per_step, sequence_tokens + 1] each; inputs are [:, :-1], targets [:, 1:].

    Raises ValueError if a batch has another shape, and the error of a rank that fails.
    """
    steps = list(batches)
    shape = (plan.sequences_per_step, plan.sequence_tokens + 1)
    for batch in steps:
        if tuple(batch.shape) != shape:
            raise ValueError(f"the plan is for batches of {shape}, not {tuple(batch.shape)}")
    workload = _workload_of(plan, optimizer or Optimizer())
    dtype = getattr(torch, workload.dtype)
    groups = connect_threads(plan)
    kept = [_KeptBytes() for _ in groups]
    trainers = []
    for rank, counter in enumerate(kept):
        context = EngineContext(device=torch.device("cpu"), dtype=dtype, label=counter.label)
        plans = StepPlans(whole=plan, short=plan)
        trainers.append(Trainer(workload, plans, weights, context, groups[rank]))

    def train(rank: int) -> list[tuple[float, float]]:
        results = []
        for batch in steps:
            groups[rank].transport.traffic = Traffic()
            kept[rank].peak = kept[rank].live
            results.append(trainers[rank].step(batch))
        return results

    # Loss and norm are sums over all ranks: every rank reports the same.
    results = run_together(groups, train)[0]
    return Training(
        losses=tuple(loss for loss, _ in results),
        gradient_norms=tuple(norm for _, norm in results),
        ranks=tuple(map(_counts, trainers, kept)),
    )


def _workload_of(plan: Plan, optimizer: Optimizer) -> Workload:
    """The workload of the plan, as far as training reads it."""
    cluster = Cluster(hardware=plan.hardware, device="cpu", nodes=1, ranks_per_node=plan.ranks)
    return Workload(
        name=plan.workload,
        model=plan.model,
        cluster=cluster,
        sequence_tokens=plan.sequence_tokens,
        sequences_per_step=plan.sequences_per_step,
        dtype=_DTYPES[plan.element_bytes],
        optimizer=optimizer,
    )


def _counts(trainer: Trainer, kept: _KeptBytes) -> RankCounts:
    traffic = trainer.groups.transport.traffic
    arenas = trainer.engine.stage.buffers.arenas
    return RankCounts(
        **trainer.groups.coordinate._asdict(),
        kept_peak_bytes=kept.peak,
        host_peak_bytes=sum(arena.peak_bytes for arena in arenas),
        offloaded_bytes=trainer.counters.offloaded_bytes,
        fetched_bytes=trainer.counters.fetched_bytes,
        messages=traffic.messages,
        message_bytes=traffic.bytes,
    )


class _KeptBytes:
    """Bytes of the storages that are labelled "activations", and their peak.

    A storage counts once, from its label until it is freed.
    """

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        # A storage may be freed on another thread, or by garbage collection inside `label`.
        self._lock = threading.RLock()

    def label(self, kind: Any, tensor: Tensor) -> None:
        if kind != "activations":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            if key in self._storages:
                return
            self._storages[key] = weakref.ref(storage, partial(self._freed, key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int, reference: weakref.ref[Any]) -> None:
        with self._lock:
            if self._storages.get(key) is reference:
                del self._storages[key]
                self.live -= size

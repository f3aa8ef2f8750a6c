"""All ranks of a case as threads, with real numbers: late copies, late messages, plain torch.

The engine runs its CUDA code for copies and messages, and the CPU's operators. Losses, gradient
norms and trained weights are compared with those of plain torch, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import BrokenBarrierError
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from baselines.protocol import Context
from baselines.reference import ReferenceSettings, ReferenceSystem
from benchmarks.worker.weights import initial_weights
from sppo.comm.collectives import Team
from sppo.comm.mesh import join_groups
from sppo.config.workload import Cluster, Optimizer, Workload
from sppo.engine.context import EngineContext
from sppo.engine.trainer import Trainer
from sppo.offload.host_memory import CopyStreams
from sppo.plan.blocks.attention import ring_slots
from sppo.plan.plan import Plan, StepPlans
from sppo.plan.weights import weight_shapes
from tests.cuda.cases import Case
from tests.cuda.fake import streams, torch_distributed
from tests.cuda.fake.communication import Program, Room, Run, order_findings
from tests.cuda.fake.courier import Courier
from tests.cuda.fake.memory import DeviceMemory, recorded_streams
from tests.cuda.fake.nccl import NcclRank
from tests.cuda.fake.network import Network, NetworkFault
from tests.cuda.fake.watch import Watch
from tests.numerics.pipelines import CPU, block_matrices, place_of, stage_values

STEPS = 2
TOLERANCE = 1e-9
RECIPE = Optimizer(learning_rate=1e-2, clip_norm=0.1, epsilon=1e-3)
"""Clips every step, and lets AdamW see the scale of gradients, so that a wrong one shows."""

RANK_FAILURES = (RuntimeError, AssertionError, ValueError, BrokenBarrierError)
"""What a rank may die of when a fault is planted."""


class RankInThread:
    """One rank: its device, its memory, its messages, and its trainer."""

    def __init__(self, rank: int, ranks: int, network: Network) -> None:
        gpu = streams.Gpu()
        self.memory = DeviceMemory(gpu)
        self.courier = Courier(gpu)
        self.nccl = NcclRank(
            rank=rank, ranks=ranks, memory=self.memory, network=network, courier=self.courier
        )
        self.operators = 0
        self.trainer: Trainer | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        watch = Watch(self.memory, self.courier)
        with ExitStack() as stack:
            stack.enter_context(streams.in_this_thread(self.memory.gpu))
            stack.enter_context(torch_distributed.in_this_thread(self.nccl))
            stack.enter_context(watch)
            yield
        self.operators = watch.operators

    def train(
        self, plan: Plan, weights: dict[str, Tensor], batches: list[Tensor]
    ) -> list[tuple[float, float]]:
        """Loss and gradient norm of every step."""
        context = EngineContext(
            device=CPU,
            dtype=torch.float64,
            label=self.memory.label,
            ring_slots=ring_slots("cuda"),
        )
        plans = StepPlans(whole=plan, short=plan)
        with self.running():
            groups = join_groups(plan)
            self.trainer = Trainer(workload_of(plan), plans, weights, context, groups)
            return [self.trainer.step(batch) for batch in batches]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a case shows. difference: the greatest from plain torch, inf without a result.

    findings: accesses without an order, by words, and how often. communication: calls that do not
    match or never end. room: the most that NCCL holds on any rank. error: what a rank died of.
    """

    difference: float
    findings: dict[str, int]
    communication: list[str]
    room: Room
    operators: int
    copies: int
    messages: int
    error: str = ""

    @property
    def is_clean(self) -> bool:
        return not (
            self.findings or self.communication or self.error or not self.difference < TOLERANCE
        )


def workload_of(plan: Plan, device: str = "cpu", dtype: Any = "float64") -> Workload:
    hardware = "h100-80g" if device == "cuda" else "cpu-2core"
    return Workload(
        name="proof",
        model=plan.model,
        cluster=Cluster(hardware=hardware, device=device, nodes=1, ranks_per_node=plan.ranks),
        sequence_tokens=plan.sequence_tokens,
        sequences_per_step=plan.sequences_per_step,
        dtype=dtype,
        optimizer=RECIPE,
    )


@contextmanager
def copies_like_cuda() -> Iterator[None]:
    """Inside, `CopyStreams` on a CPU has streams and events."""
    original = CopyStreams.__init__

    def on_cuda(self: CopyStreams, device: torch.device) -> None:
        original(self, torch.device("cuda", 0))

    with patch.object(CopyStreams, "__init__", on_cuda):
        yield


def _memory_of_this_thread() -> DeviceMemory:
    return torch_distributed.nccl_of_this_thread().memory


def run_case(case: Case) -> Outcome:
    """Train two steps on all ranks, and compare with plain torch."""
    plan = case.plan(8)
    weights = initial_weights(plan.model, 3, torch.float64)
    generator = torch.Generator().manual_seed(5)
    shape = (plan.sequences_per_step, plan.sequence_tokens + 1)
    batches = [
        torch.randint(0, plan.model.vocabulary, shape, generator=generator) for _ in range(STEPS)
    ]
    network = Network()
    ranks = [RankInThread(rank, plan.ranks, network) for rank in range(plan.ranks)]

    def train(rank: RankInThread) -> list[tuple[float, float]]:
        with ExitStack() as undo:
            undo.callback(network.give_up)
            steps = rank.train(plan, weights, batches)
            undo.pop_all()
        return steps

    with ExitStack() as patches:
        patches.enter_context(streams.simulated_streams())
        patches.enter_context(torch_distributed.simulated_nccl())
        patches.enter_context(copies_like_cuda())
        patches.enter_context(recorded_streams(_memory_of_this_thread))
        pool = patches.enter_context(ThreadPoolExecutor(len(ranks)))
        futures = [pool.submit(train, rank) for rank in ranks]
        steps, errors = [], []
        for future in futures:
            try:
                steps.append(future.result())
            except RANK_FAILURES as error:
                errors.append(error)
        for rank in ranks:
            rank.memory.closed = True
    errors.sort(key=lambda error: isinstance(error, NetworkFault) and "another" in str(error))
    difference = math.inf if errors else _difference(ranks, steps, weights, batches)
    return _outcome(ranks, difference, f"{errors[0]}" if errors else "")


def _difference(
    ranks: list[RankInThread],
    steps: list[list[tuple[float, float]]],
    weights: dict[str, Tensor],
    batches: list[Tensor],
) -> float:
    """The greatest difference in a loss, a gradient norm or a trained weight."""
    trainers = [rank.trainer for rank in ranks if rank.trainer is not None]
    plan = trainers[0].plan
    context = Context(rank=0, ranks=1, device=CPU, dtype=torch.float64)
    reference = ReferenceSystem(workload_of(plan), ReferenceSettings(), weights, context)
    differences = [torch.zeros((), dtype=torch.float64)]
    for number, batch in enumerate(batches):
        expected = reference.step(batch)
        for results in steps:
            pair = torch.tensor(results[number], dtype=torch.float64)
            differences.append(
                (pair - torch.tensor((expected.loss, expected.grad_norm), dtype=torch.float64))
                .abs()
                .max()
            )
    updated = {
        name: reference.model.get_parameter(name.replace(".", "__")).detach()
        for name in weight_shapes(plan.model)
    }
    expected_by_shard: dict[int, dict[str, Tensor]] = {}
    of_blocks = block_matrices([(trainer.groups, trainer.weights) for trainer in trainers], "value")
    for trainer in trainers:
        team: Team = trainer.groups.shards
        values = expected_by_shard.setdefault(
            team.index, stage_values(plan.model, updated, Team(team.size, team.index))
        )
        own = {name: weight.value for name, weight in trainer.weights.items()}
        own |= of_blocks[place_of(trainer.groups)]
        differences += [(value - values[name]).abs().max() for name, value in own.items()]
    greatest = torch.stack(differences).max().item()  # NaN, where there is one
    return math.inf if math.isnan(greatest) else greatest


def _outcome(ranks: list[RankInThread], difference: float, error: str) -> Outcome:
    programs: dict[int, Program] = {rank.nccl.rank: rank.nccl.program for rank in ranks}
    run = Run(programs)
    findings: dict[str, int] = {}
    for rank in ranks:
        for finding, count in rank.memory.findings.items():
            findings[str(finding)] = findings.get(str(finding), 0) + count
    return Outcome(
        difference=difference,
        findings=findings,
        communication=order_findings(programs) + run.deadlocks(),
        room=run.room(),
        operators=sum(rank.operators for rank in ranks),
        copies=sum(rank.courier.copied for rank in ranks),
        messages=sum(rank.nccl.calls for rank in ranks),
        error=error,
    )

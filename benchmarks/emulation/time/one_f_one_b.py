"""The pipeline of whole micro-batches, one forward and one backward in turn (1F1B), simulated.

The orders are Megatron's. `forward_backward_pipelining_without_interleaving`: stage s of p runs
p - s - 1 forwards first, then pairs, then the remaining backwards.
`forward_backward_pipelining_with_interleaving`: a stage has several model chunks. Groups of n
micro-batches (p, if p divides them) pass one chunk after another, and stage s of p with v chunks
runs 2 (p - s - 1) + (v - 1) n forwards first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain, pairwise
from typing import Literal

ChunkTask = tuple[Literal["F", "B"], int, int]
"""Forward or backward of a micro-batch through a model chunk of its stage."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """One micro-batch on one model chunk of a stage.

    A send holds its sender until the receiver has all of it.
    """

    forward: float
    backward: float
    send_forward: float = 0.0
    send_backward: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds of computing and sending."""
        return self.forward + self.backward + self.send_forward + self.send_backward


def order(
    stage: int, stages: int, micro_batches: int, chunks: int = 1, group: int = 1
) -> list[ChunkTask]:
    """The tasks of one stage, first to last. group: micro-batches that pass a chunk in turn."""
    passes = [
        (number, chunk)
        for first in range(0, micro_batches, group)
        for chunk in range(chunks)
        for number in range(first, min(first + group, micro_batches))
    ]
    behind = stages - stage - 1
    ahead = min(behind if chunks == 1 else 2 * behind + (chunks - 1) * group, len(passes))
    forwards: list[ChunkTask] = [("F", number, chunk) for number, chunk in passes]
    backwards: list[ChunkTask] = [("B", number, chunks - 1 - chunk) for number, chunk in passes]
    pairs = zip(forwards[ahead:], backwards, strict=False)
    rest = backwards[len(forwards) - ahead :]
    return [*forwards[:ahead], *chain.from_iterable(pairs), *rest]


def stage_ends(
    stages: Sequence[StageSeconds], micro_batches: int, chunks: int = 1, group: int | None = None
) -> list[float]:
    """When each stage has done its last task and sent its result, in seconds from the begin.

    A task begins when the stage is free and its input is there: from the stage before for a
    forward, from the stage behind for a backward. With several chunks the last stage is before the
    first one, and micro-batches pass a chunk in groups (None: of one micro-batch a stage). A sender
    waits for no receiver.
    """
    count = len(stages)
    orders = [order(stage, count, micro_batches, chunks, group or count) for stage in range(count)]
    needs: dict[tuple[int, ChunkTask], list[tuple[int, ChunkTask]]] = {}
    for stage, tasks in enumerate(orders):
        for task in tasks:
            needs[stage, task] = _input(stage, task, count, chunks)
        for before, task in pairwise(tasks):
            needs[stage, task].append((stage, before))
    ends: dict[tuple[int, ChunkTask], float] = {}
    for stage, task in TopologicalSorter(needs).static_order():
        ready = max((ends[need] for need in needs[stage, task]), default=0.0)
        ends[stage, task] = ready + _seconds(stages[stage], task)
    return [ends[stage, tasks[-1]] for stage, tasks in enumerate(orders)]


def _input(stage: int, task: ChunkTask, stages: int, chunks: int) -> list[tuple[int, ChunkTask]]:
    """The stage and task whose message the task waits for: one or none."""
    kind, number, chunk = task
    position = chunk * stages + stage + (-1 if kind == "F" else 1)
    if not 0 <= position < stages * chunks:
        return []
    return [(position % stages, (kind, number, position // stages))]


def _seconds(stage: StageSeconds, task: ChunkTask) -> float:
    if task[0] == "F":
        return stage.forward + stage.send_forward
    return stage.backward + stage.send_backward

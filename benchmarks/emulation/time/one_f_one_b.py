"""The pipeline of whole micro-batches, one forward and one backward in turn (1F1B), simulated.

The order is Megatron's `forward_backward_pipelining_without_interleaving`: stage s of p runs
p - s - 1 forwards first, then pairs, then the remaining backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain, pairwise
from typing import Literal

Task = tuple[Literal["F", "B"], int]
"""Forward or backward of a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """One micro-batch on one stage. A send holds its sender until the receiver has all of it."""

    forward: float
    backward: float
    send_forward: float = 0.0
    send_backward: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds of computing and sending."""
        return self.forward + self.backward + self.send_forward + self.send_backward


def order(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """The tasks of one stage, first to last."""
    ahead = min(stages - stage - 1, micro_batches)
    forwards: list[Task] = [("F", number) for number in range(micro_batches)]
    backwards: list[Task] = [("B", number) for number in range(micro_batches)]
    pairs = zip(forwards[ahead:], backwards, strict=False)
    return [*forwards[:ahead], *chain.from_iterable(pairs), *backwards[micro_batches - ahead :]]


def stage_ends(stages: Sequence[StageSeconds], micro_batches: int) -> list[float]:
    """When each stage has done its last task and sent its result, in seconds from the begin.

    A task begins when the stage is free and its input is there: from the stage before for a
    forward, from the stage behind for a backward. A sender waits for no receiver.
    """
    count = len(stages)
    needs: dict[tuple[int, Task], list[tuple[int, Task]]] = {}
    for stage in range(count):
        tasks = order(stage, count, micro_batches)
        for task in tasks:
            neighbour = stage - 1 if task[0] == "F" else stage + 1
            needs[stage, task] = [(neighbour, task)] if 0 <= neighbour < count else []
        for before, task in pairwise(tasks):
            needs[stage, task].append((stage, before))
    ends: dict[tuple[int, Task], float] = {}
    for stage, task in TopologicalSorter(needs).static_order():
        ready = max((ends[need] for need in needs[stage, task]), default=0.0)
        ends[stage, task] = ready + _seconds(stages[stage], task)
    return [ends[stage, ("B", micro_batches - 1)] for stage in range(count)]


def _seconds(stage: StageSeconds, task: Task) -> float:
    if task[0] == "F":
        return stage.forward + stage.send_forward
    return stage.backward + stage.send_backward

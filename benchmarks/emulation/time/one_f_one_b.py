"""The pipeline of whole micro-batches, one forward and one backward in turn (1F1B), simulated.

The order is Megatron's `forward_backward_pipelining_without_interleaving`: stage s of p runs
p - s - 1 forwards first, then pairs, then the backwards that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Task = tuple[Literal["F", "B"], int]
"""Forward or backward of a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """One micro-batch on one stage. A send holds its sender, and ends when the other has it all."""

    forward: float
    backward: float
    send_forward: float = 0.0
    send_backward: float = 0.0

    @property
    def busy(self) -> float:
        """Computing and sending."""
        return self.forward + self.backward + self.send_forward + self.send_backward


def order(stage: int, stages: int, micro_batches: int) -> list[Task]:
    """What one stage does, first to last."""
    ahead = min(stages - stage - 1, micro_batches)
    tasks: list[Task] = [("F", number) for number in range(ahead)]
    for number in range(ahead, micro_batches):
        tasks += [("F", number), ("B", number - ahead)]
    tasks += [("B", number) for number in range(micro_batches - ahead, micro_batches)]
    return tasks


def stage_ends(stages: Sequence[StageSeconds], micro_batches: int) -> list[float]:
    """When each stage has done its last task and sent its result, in seconds from the begin.

    A task begins when the stage is free and its input is there: from the stage before for a
    forward, from the stage behind for a backward. A sender waits for no receiver.
    """
    count = len(stages)
    waiting = [order(stage, count, micro_batches) for stage in range(count)]
    free = [0.0] * count
    sent: dict[tuple[int, Task], float] = {}
    while any(waiting):
        before = sum(map(len, waiting))
        for stage, tasks in enumerate(waiting):
            while tasks:
                source = _source(stage, tasks[0], count)
                if source is not None and source not in sent:
                    break
                ready = 0.0 if source is None else sent[source]
                task = tasks.pop(0)
                free[stage] = max(free[stage], ready) + _seconds(stages[stage], task)
                sent[stage, task] = free[stage]
        assert sum(map(len, waiting)) < before, "deadlock"
    return free


def _source(stage: int, task: Task, count: int) -> tuple[int, Task] | None:
    """The stage and the task that make a task's input; None for tokens and the loss."""
    neighbour = stage - 1 if task[0] == "F" else stage + 1
    return (neighbour, task) if 0 <= neighbour < count else None


def _seconds(stage: StageSeconds, task: Task) -> float:
    if task[0] == "F":
        return stage.forward + stage.send_forward
    return stage.backward + stage.send_backward

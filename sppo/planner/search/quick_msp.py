"""The simulated step of a layout with MSP, without its events: as `quick_step.py`, with slices.

Slices of a subsequence begin together. Weights go to the helpers before their first slice, and
gradients come back behind their last one. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from sppo.cost_model.msp import layout_slice_costs
from sppo.plan.layout import Layout
from sppo.plan.msp import MspSplit
from sppo.planner.activations.stage_times import ChunkTimes, StageTimes
from sppo.planner.evaluate import DecidedStage
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.search.quick_step import (
    UNKNOWN,
    Messages,
    Order,
    StageWalk,
    makespan_ns,
    order_of,
)
from sppo.schedule.cost_table import SliceCosts
from sppo.schedule.dependencies import matching_receive
from sppo.schedule.dependencies import messages as messages_of
from sppo.schedule.instructions import Instruction, Op
from sppo.schedule.order import Compute


def decided_msp_ns(layout: TimedLayout, stages: Sequence[DecidedStage]) -> int:
    """The makespan of a step with the decisions of all stages, without sums over replicas."""

    def recomputed(part: int, index: int, rank: int) -> tuple[str, ...]:
        place, owner = divmod(part, layout.pipeline_parallel)
        if rank == owner:
            return stages[owner].decisions[place][index].recompute
        return layout.split_of(part, index).recompute_units

    times = [stage.problem.times(stage.decisions) for stage in stages]
    costs = layout_slice_costs(layout, layout.shapes, layout.profile, recomputed)
    return quick_msp_ns(layout, times, costs)


def quick_msp_ns(layout: TimedLayout, stages: Sequence[StageTimes], costs: SliceCosts) -> int:
    """The makespan of a step, without the sums over replicas.

    stages: times of own chunks as of whole subsequences.
    """
    meetings = _Meetings(layout, costs)
    walks = []
    for stage, own in enumerate(stages):
        times = _with_slices(layout, stage, own, costs)
        walks.append(_MspWalk(layout, stage, times, order_of(layout, stage), meetings))
    return makespan_ns(walks, Messages(layout))


def _with_slices(layout: TimedLayout, stage: int, own: StageTimes, costs: SliceCosts) -> StageTimes:
    """The times of a stage with those of its slices, also in chunks that the stage helps with."""
    nothing = [0] * layout.subsequences
    chunks = []
    for place, part in enumerate(layout.parts_of(stage)):
        whole = ChunkTimes(nothing, nothing, nothing, nothing)
        chunk = own.chunks[place] if place < len(own.chunks) else whole
        forward, backward = list(chunk.forward), list(chunk.backward)
        for index in range(layout.subsequences):
            if not layout.is_split(part, index):
                continue
            number = layout.slice_of(part, index, stage)
            if number is not None:
                forward[index] = costs.compute.get((Op.FORWARD, part, index, number), 0)
                backward[index] = costs.compute.get((Op.BACKWARD, part, index, number), 0)
        chunks.append(chunk._replace(forward=forward, backward=backward))
    return StageTimes(chunks, own.clear)


class _Meetings:
    """What passes between the ranks of splits: messages that have left, slices that are ready."""

    def __init__(self, layout: TimedLayout, costs: SliceCosts) -> None:
        self.layout, self.costs = layout, costs
        self._left: dict[Instruction, tuple[int, int]] = {}
        self._ready: dict[object, dict[int, int]] = {}

    @cached_property
    def borders(self) -> set[tuple[int, int]]:
        """(chunk, subsequence) whose hidden states pass from or to slices, behind the chunk."""
        return {
            (part, index)
            for split in self.layout.msp_splits
            for index in split.subsequences
            for part in (split.part - 1, split.part)
        }

    def send(self, message: Instruction, clock: int) -> None:
        """A message leaves at `clock`."""
        cost = self.costs.sent[message._replace(sequence=0)]
        self._left[matching_receive(message)] = clock, cost.time

    def arrival(self, receive: Instruction, posted: int) -> int:
        """When a message is there; UNKNOWN if it has not left."""
        if receive not in self._left:
            return UNKNOWN
        left, ns = self._left[receive]
        return max(left, posted) + ns

    def begin(self, slices: object, number: int, count: int, ready: int) -> int:
        """Slice `number` of `count` is ready; the begin of all, UNKNOWN before the last is."""
        known = self._ready.setdefault(slices, {})
        known[number] = ready
        return max(known.values()) if len(known) == count else UNKNOWN


class _Run(NamedTuple):
    """A split's forwards, or its backwards, on one of its ranks.

    weights: messages to helpers before the first compute. gradients: theirs behind the last one.
    """

    owns: bool
    weights: tuple[Instruction, ...]
    gradients: tuple[Instruction, ...]


class _Runs(NamedTuple):
    """The runs of a stage by the positions of their first and of their last compute."""

    begins: dict[int, list[_Run]]
    ends: dict[int, list[_Run]]


def _runs(layout: Layout, stage: int, parts: Sequence[int], computes: Sequence[Compute]) -> _Runs:
    """As `schedule.build.msp_instructions`."""
    positions: dict[tuple[int, bool, int], list[int]] = {}
    numbers = {}
    for number, split in enumerate(layout.msp_splits):
        numbers.update({(split.part, index): number for index in split.subsequences})
    for position, compute in enumerate(computes):
        of_split = numbers.get((parts[compute.virtual], compute.subsequence))
        if of_split is not None:
            key = of_split, compute.forward, compute.sequence
            positions.setdefault(key, []).append(position)
    runs = _Runs({}, {})
    for (number, *_), places in positions.items():
        begin, end = places[0], places[-1]
        run = _run_of(layout, stage, layout.msp_splits[number], computes[begin], computes[end])
        runs.begins.setdefault(begin, []).append(run)
        runs.ends.setdefault(end, []).append(run)
    return runs


def _run_of(layout: Layout, stage: int, split: MspSplit, first: Compute, last: Compute) -> _Run:
    """A helper that still has the weights when the backward begins does not receive them again."""
    owns, backward = stage == split.part % layout.pipeline_parallel, not first.forward
    weights, gradients = [], []
    for number, rank in layout.helpers(split):
        if not owns and rank != stage:
            continue
        send = Instruction(Op.SEND_W, first.sequence, first.subsequence, split.part, number)
        if not (backward and layout.keeps_weights(rank, split)):
            weights.append(send._replace(other=int(backward)))
        if backward:
            gradients.append(send._replace(op=Op.SEND_DW, subsequence=last.subsequence))
    return _Run(owns, tuple(weights), tuple(gradients))


class _Gradients(NamedTuple):
    """A helper's gradients, which the owner adds to its own."""

    receive: Instruction
    posted: int
    ns: int


class _MspWalk(StageWalk):
    """The clocks of one stage with slices."""

    def __init__(
        self,
        layout: TimedLayout,
        stage: int,
        times: StageTimes,
        order: Order,
        meetings: _Meetings,
    ) -> None:
        super().__init__(layout, stage, times, order)
        self.meetings = meetings
        self.parts = layout.parts_of(stage)
        self.runs = _runs(layout, stage, self.parts, self.computes)
        self.weights_posted: dict[int, tuple[Instruction, int]] = {}
        self.gradients_posted: dict[Instruction, int] = {}
        self.returning: list[_Gradients] = []

    def _part(self, compute: Compute) -> int:
        return self.parts[compute.virtual]

    def _instruction(self, compute: Compute) -> Instruction:
        op, part = Op.FORWARD if compute.forward else Op.BACKWARD, self._part(compute)
        number = self.layout.slice_of(part, compute.subsequence, self.stage) or 0
        return Instruction(op, compute.sequence, compute.subsequence, part, number)

    def run(self, messages: Messages) -> bool:
        """See `StageWalk`; gradients of helpers are added before the next compute."""
        while self._add_gradients():
            if self.done == len(self.computes):
                return True
            if not self.advance(messages):
                return False
        return False

    def _add_gradients(self) -> bool:
        """Whether all gradients that the stage waits for are added."""
        while self.returning:
            receive, posted, ns = self.returning[0]
            arrival = self.meetings.arrival(receive, posted)
            if arrival == UNKNOWN:
                return False
            self.clock = max(self.clock, arrival) + ns
            del self.returning[0]
        return True

    def _announce(self) -> None:
        """Weights leave, or their receive is posted; so is that of gradients."""
        for run in self.runs.begins.get(self.done, ()):
            for message in run.weights:
                if run.owns:
                    self.meetings.send(message, self.clock)
                else:
                    self.weights_posted[self.done] = matching_receive(message), self.clock
        for run in self.runs.ends.get(self.done, ()):
            if run.owns:
                for message in run.gradients:
                    self.gradients_posted[matching_receive(message)] = self.clock

    def _received(self, messages: Messages, compute: Compute) -> int:
        part, index = self._part(compute), compute.subsequence
        border = part - 1 if compute.forward else part
        latest = 0
        if (border, index) not in self.meetings.borders:
            latest = super()._received(messages, compute)
        else:
            for receive in messages_of(self.layout, self._instruction(compute), reads=True):
                arrival = self.meetings.arrival(receive, self.posted)
                if arrival == UNKNOWN:
                    return UNKNOWN
                latest = max(latest, arrival)
        if latest != UNKNOWN and self.done in self.weights_posted:
            arrival = self.meetings.arrival(*self.weights_posted[self.done])
            latest = UNKNOWN if arrival == UNKNOWN else max(latest, arrival)
        return latest

    def _begin(self, messages: Messages, compute: Compute) -> int:
        begin = super()._begin(messages, compute)
        part, index = self._part(compute), compute.subsequence
        if begin == UNKNOWN or not self.layout.is_split(part, index):
            return begin
        if not compute.forward:
            begin = max(begin, self.offloaded, self.reloaded.get(compute, 0))
        number = self.layout.slice_of(part, index, self.stage) or 0
        count = len(self.layout.slices(part, index))
        slices = compute.forward, compute.sequence, part, index
        return self.meetings.begin(slices, number, count, begin)

    def _send(self, messages: Messages, compute: Compute) -> None:
        part = self._part(compute)
        border = part if compute.forward else part - 1
        if (border, compute.subsequence) not in self.meetings.borders:
            super()._send(messages, compute)
            return
        for message in messages_of(self.layout, self._instruction(compute), reads=False):
            self.meetings.send(message, self.clock)

    def _compute(self, messages: Messages, compute: Compute, begin: int) -> None:
        super()._compute(messages, compute, begin)
        for run in self.runs.ends.get(self.done, ()):
            for message in run.gradients:
                if not run.owns:
                    self.meetings.send(message, self.clock)
                    continue
                receive = matching_receive(message)
                op, _, index, part, number, _ = message._replace(op=Op.ADD_DW)
                added = self.meetings.costs.compute[op, part, index, number]
                posted = self.gradients_posted[receive]
                self.returning.append(_Gradients(receive, posted, added))

"""The simulated step of a layout without its events: the makespan of `schedule.simulate` alone.

The search simulates many layouts and needs one number of each. This walk follows the rules of
`schedule/build.py` and `schedule/simulate.py`, an order of magnitude faster. A test holds both
makespans equal. Layouts with MSP: `quick_msp.py`. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sppo.cost_model.times import copy_ns, stage_link
from sppo.plan.plan import Prediction
from sppo.planner.activations.stage_times import StageTimes
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.schedule.order import Compute, stage_computes

UNKNOWN = -1


def message_bytes(layout: TimedLayout) -> list[int]:
    """Bytes of a message between stages, by subsequence."""
    width = layout.workload.model.hidden * layout.workload.element_bytes
    return [-(-tokens * width // layout.sequence_parallel) for tokens in layout.lengths_tokens]


def message_ns(layout: TimedLayout) -> list[int]:
    """Time of a message between stages, by subsequence."""
    ranks = layout.sequence_parallel * layout.pipeline_parallel
    link, latency = stage_link(layout.profile, ranks)
    return [copy_ns(size, link, latency) for size in message_bytes(layout)]


def quick_prediction(
    layout: TimedLayout, stages: Sequence[StageTimes], makespan_ns: int
) -> Prediction:
    """The prediction of a plan whose step was simulated so."""
    sequences, overlapped = layout.sequences, layout.profile.overlapped_copies
    busy = sequences * sum(times.busy_ns(overlapped=overlapped) for times in stages)
    sent = [_sending(layout, stage) for stage in range(layout.pipeline_parallel)]
    size = sum(message_bytes(layout))
    return Prediction(
        makespan_seconds=makespan_ns / 1e9 + layout.reduction_seconds,
        reduction_seconds=layout.reduction_seconds,
        bubble_share=1 - busy / (len(stages) * makespan_ns),
        messages=tuple(count * sequences * layout.subsequences for count in sent),
        message_bytes=tuple(count * sequences * size for count in sent),
    )


def _sending(layout: TimedLayout, stage: int) -> int:
    """Chunks of a stage that send their forward's result, and those that send their backward's."""
    if layout.pipeline_parallel == 1:
        return 0
    last = layout.part_count - 1
    parts = range(stage, layout.part_count, layout.pipeline_parallel)
    return sum((part < last) + (part > 0) for part in parts)


def quick_step_ns(layout: TimedLayout, stages: Sequence[StageTimes]) -> int:
    """The makespan of a step, without the sums over replicas."""
    assert not layout.msp_splits
    orders: dict[object, Order] = {}
    walks = []
    for stage, times in enumerate(stages):
        key = stage if layout.kv_sets > 1 else layout.head_alone and stage == 0
        if key not in orders:
            orders[key] = order_of(layout, stage)
        walks.append(StageWalk(layout, stage, times, orders[key]))
    return makespan_ns(walks, Messages(layout))


def makespan_ns(walks: Sequence[StageWalk], messages: Messages) -> int:
    """Walk all stages to the end of the step; the end of the last one."""
    waiting = walks
    while waiting:
        waiting = [walk for walk in waiting if not walk.run(messages)][::-1]
    return max(walk.end for walk in walks)


class Order(NamedTuple):
    """The computes of a stage in order, its backwards, and the first position of each kind.

    firsts: by (forward, sequence).
    """

    computes: list[Compute]
    backwards: list[Compute]
    firsts: dict[tuple[bool, int], int]


def order_of(layout: TimedLayout, stage: int) -> Order:
    """The computes of a stage in a step."""
    computes = stage_computes(layout, stage, layout.sequences)
    firsts: dict[tuple[bool, int], int] = {}
    for position, compute in enumerate(computes):
        firsts.setdefault((compute.forward, compute.sequence), position)
    return Order(computes, [compute for compute in computes if not compute.forward], firsts)


class Messages:
    """When hidden states and their gradients left, by direction, chunk and place."""

    def __init__(self, layout: TimedLayout) -> None:
        self.count = layout.subsequences
        places = layout.sequences * self.count
        self.between_ranks = layout.pipeline_parallel > 1
        self.ns = message_ns(layout)
        self._left = [[[UNKNOWN] * places for _ in range(layout.part_count)] for _ in range(2)]

    def left(self, forward: bool, part: int, compute: Compute) -> int:
        """When the message of a chunk's forward or backward of this subsequence left."""
        return self._left[forward][part][compute.sequence * self.count + compute.subsequence]

    def send(self, part: int, compute: Compute, clock: int) -> None:
        """A compute ended at `clock`."""
        place = compute.sequence * self.count + compute.subsequence
        self._left[compute.forward][part][place] = clock


class StageWalk:
    """The clocks of one stage, which runs until it needs a message that has not left."""

    def __init__(self, layout: TimedLayout, stage: int, times: StageTimes, order: Order) -> None:
        self.layout, self.stage, self.times = layout, stage, times
        self.computes, self.backwards = order.computes, order.backwards
        self.overlapped = layout.profile.overlapped_copies
        self.ahead = layout.receive_ahead
        self.clock = self.d2h = self.h2d = self.offloaded = self.done = self.returned = 0
        self.entered: list[int] = []
        self.away: set[Compute] = set()
        self.reloaded: dict[Compute, int] = {}
        mixed = layout.kv_sets > 1
        self.zeroing = {  # see `build._zeros`
            position
            for (forward, sequence), position in order.firsts.items()
            if forward == (stage > 0 and not (mixed and sequence > 0))
        }

    @property
    def end(self) -> int:
        """The end of the last compute or copy."""
        return max(self.clock, self.d2h, self.h2d)

    def run(self, messages: Messages) -> bool:
        """Compute as far as messages allow; True at the end of the step."""
        while self.done < len(self.computes):
            if not self.advance(messages):
                return False
        return True

    def advance(self, messages: Messages) -> bool:
        """The next compute; False if it needs a message that has not left."""
        compute = self.computes[self.done]
        if len(self.entered) == self.done:
            self._enter(compute)
        begin = self._begin(messages, compute)
        if begin == UNKNOWN:
            return False
        self._compute(messages, compute, begin)
        self.done += 1
        return True

    def _begin(self, messages: Messages, compute: Compute) -> int:
        """The time from which on copies alone delay a compute, UNKNOWN if messages are missing."""
        received = self._received(messages, compute)
        return received if received == UNKNOWN else max(received, self.clock)

    def _enter(self, compute: Compute) -> None:
        """Post receives, issue reloads and zero dK and dV before a compute."""
        self.entered.append(self.clock)
        if not compute.forward:
            ahead = 2 if self.overlapped else 1
            for early in self.backwards[self.returned : self.returned + ahead]:
                if early in self.away:
                    self._reload(early)
            self.returned += 1
        self._announce()
        if self.done in self.zeroing:
            self.clock += self.times.clear

    def _announce(self) -> None:
        """What a stage with MSP sends and posts before a compute."""

    @property
    def posted(self) -> int:
        """When the receives of the next compute were posted."""
        return self.entered[self.done - self.ahead] if self.done >= self.ahead else 0

    def _received(self, messages: Messages, compute: Compute) -> int:
        """When a compute's message is there, 0 if it needs none, UNKNOWN if it has not left."""
        part = self._part(compute)
        source = part - 1 if compute.forward else part + 1
        if not messages.between_ranks or not 0 <= source < self.layout.part_count:
            return 0
        left = messages.left(compute.forward, source, compute)
        if left == UNKNOWN:
            return UNKNOWN
        return max(left, self.posted) + messages.ns[compute.subsequence]

    def _compute(self, messages: Messages, compute: Compute, begin: int) -> None:
        chunk, index = self.times.chunks[compute.virtual], compute.subsequence
        if compute.forward:
            self.clock = max(begin + chunk.forward[index], self.offloaded)
        else:
            begin = max(begin, self.offloaded, self.reloaded.get(compute, 0))
            self.clock = begin + chunk.backward[index]
        self._send(messages, compute)
        if compute.forward and chunk.d2h[index]:
            self._offload(compute, chunk.d2h[index])

    def _send(self, messages: Messages, compute: Compute) -> None:
        messages.send(self._part(compute), compute, self.clock)

    def _part(self, compute: Compute) -> int:
        """The chunk of a compute."""
        return compute.virtual * self.layout.pipeline_parallel + self.stage

    def _offload(self, compute: Compute, ns: int) -> None:
        self.away.add(compute._replace(forward=False))
        if self.overlapped:
            self.offloaded = self.d2h = max(self.clock, self.d2h) + ns
        else:
            self.offloaded = self.clock = self.clock + ns

    def _reload(self, backward: Compute) -> None:
        self.away.discard(backward)
        self.clock = max(self.clock, self.offloaded)
        ns = self.times.chunks[backward.virtual].h2d[backward.subsequence]
        if self.overlapped:
            self.reloaded[backward] = self.h2d = max(self.clock, self.h2d) + ns
        else:
            self.reloaded[backward] = self.clock = self.clock + ns

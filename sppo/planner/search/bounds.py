"""Lower bounds of a layout's simulated step: chains of computes and messages through a stage.

A chain begins with the first subsequence in the stages before, passes all computes of one stage,
crosses the later chunks with the last subsequence between forward and backward, and ends with the
first subsequence in the stages before. Each of its members waits for the one before, so no step is
shorter. What decisions add to the stage's own computes lengthens the chain. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from sppo.plan.layout import split_layers
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.activations.stage_times import StageTimes
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.search.least_added import LeastAdded, least_added
from sppo.planner.search.quick_step import message_ns
from sppo.schedule.order import forward_order


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The chain through one stage, in ns of one sequence.

    own: all forwards and backwards of the stage. ends: before its first forward and after its last
    backward. turn: between its last forward and its first backward.
    """

    problem: StageProblem
    own: int
    ends: int
    turn: int

    def step_ns(self, added_ns: int = 0) -> int:
        """The least step if decisions add so much to the stage's computes of each sequence.

        Mixed sequences meet the ends once, and other sequences fill the turn.
        """
        layout = self.problem.layout
        assert isinstance(layout, TimedLayout)
        if layout.kv_sets > 1:
            return self.ends + layout.sequences * (self.own + added_ns)
        return layout.sequences * (self.ends + self.own + self.turn + added_ns)


def bounding_stages(layout: TimedLayout) -> list[int]:
    """The first two stages and the last: the fullest, and those with the embedding and the head."""
    last = layout.pipeline_parallel - 1
    return sorted({0, min(1, last), last})


def bounding_problems(layout: TimedLayout) -> list[StageProblem]:
    """The decisions of the stages that bound the step; made once for a layout."""
    if "problems" not in layout.memo:
        stages = bounding_stages(layout)
        layout.memo["problems"] = [stage_problem(layout, stage) for stage in stages]
    made: list[StageProblem] = layout.memo["problems"]
    return made


def added_at_least(layout: TimedLayout, problem: StageProblem) -> LeastAdded:
    """`least_added` of one of `bounding_problems`; made once for a layout."""
    key = "added", problem.stage
    if key not in layout.memo:
        layout.memo[key] = least_added(problem)
    made: LeastAdded = layout.memo[key]
    return made


def chains(layout: TimedLayout) -> list[Chain]:
    """Those of the stages that bound the step; made once for a layout."""
    if "chains" not in layout.memo:
        layout.memo["chains"] = [_chain(layout, each) for each in bounding_problems(layout)]
    made: list[Chain] = layout.memo["chains"]
    return made


@lru_cache(maxsize=1024)
def _layers_around(layers: int, stages: int, virtual_stages: int) -> tuple[_LayersAround, ...]:
    """Of the bounding stages, for chunks as `split_layers` makes them."""
    counts = [end - start for start, end in split_layers(layers, stages * virtual_stages)]
    last_chunks = counts[(virtual_stages - 1) * stages :]
    return tuple(
        _LayersAround(
            stage, sum(counts[:stage]), sum(counts[stage::stages]), sum(last_chunks[stage + 1 :])
        )
        for stage in sorted({0, min(1, stages - 1), stages - 1})
    )


class _LayersAround(NamedTuple):
    """Layers in the stages before a stage's first chunk, its own, and those behind its last."""

    stage: int
    before: int
    own: int
    after: int


def compute_bound_ns(layout: TimedLayout) -> int:
    """No step of this layout is shorter, whatever the decisions; without messages and copies.

    As the chains, from sums over all subsequences that layouts of one cut share.
    """
    times, stages = layout.cut_times, layout.pipeline_parallel
    layers = layout.workload.model.layers
    least = 0.0
    for stage, before, own_layers, after in _layers_around(layers, stages, layout.virtual_stages):
        is_last = stage == stages - 1 and not layout.head_alone
        ends = before * times.first
        own = own_layers * times.total + (times.head if is_last else 0.0)
        turn = after * times.final + (0.0 if is_last else times.final_head)
        if layout.kv_sets > 1:
            least = max(least, ends + layout.sequences * own)
        else:
            least = max(least, layout.sequences * (ends + own + turn))
    rounded = 2 * layout.sequences * layout.part_count * layout.subsequences
    return max(0, int(least * 1e9) - rounded)


def _chain(layout: TimedLayout, problem: StageProblem) -> Chain:
    stage = problem.stage
    messages = message_ns(layout)
    final = layout.subsequences - 1
    places = range(len(problem.shapes))
    own = sum(sum(times) for place in places for times in problem.base_ns(place))
    after = layout.part_count - 1 - (places[-1] * layout.pipeline_parallel + stage)
    before_ns = _both_ns(layout, range(stage), 0)
    after_ns = _both_ns(layout, range(layout.part_count - after, layout.part_count), final)
    return Chain(
        problem=problem,
        own=own,
        ends=before_ns + 2 * stage * messages[0],
        turn=after_ns + 2 * after * messages[final],
    )


def _both_ns(layout: TimedLayout, parts: range, index: int) -> int:
    """Forward and backward of one subsequence in several chunks, without decisions."""
    costs = [layout.part_costs(layout.shapes[part])[index] for part in parts]
    return sum(cost.forward_ns + cost.backward_ns for cost in costs)


def decided_bound_ns(chain: Chain, times: StageTimes) -> int:
    """No step is shorter in which the chain's stage has these times.

    A forward ends no earlier than the copies of the forward before. A backward begins no earlier
    than its reload ends, which is issued as the backward before begins; the first is issued at the
    turn, where it hides.
    """
    problem = chain.problem
    order = forward_order(problem.layout, problem.stage)
    chunks = [times.chunks[place] for place, _ in order]
    numbers = [index for _, index in order]

    def row(name: str) -> list[int]:
        return [getattr(chunk, name)[i] for chunk, i in zip(chunks, numbers, strict=True)]

    forward, backward, d2h, h2d = map(row, ("forward", "backward", "d2h", "h2d"))
    if not problem.profile.overlapped_copies:
        decided = sum(forward) + sum(backward) + sum(d2h) + sum(h2d)
    elif problem.layout.kv_sets > 1:  # the other sequence's computes hide more
        decided = sum(forward) + sum(backward)
    else:
        decided = forward[0] + sum(map(max, forward[1:], d2h))
        hidden = [*h2d[:-2], 0] if len(h2d) > 1 else []
        decided += backward[0] + sum(map(max, backward[1:], hidden))
    return chain.step_ns(decided - chain.own)

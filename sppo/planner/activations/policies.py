"""Named policies: which decisions a stage's tensors get, from the ablation's plain ones to ours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from sppo.config.errors import LayoutDoesNotFit
from sppo.memory_model.decisions import KEEP, Decision, StageDecisions
from sppo.planner.activations.stage_problem import StageProblem

LEVELS = 32
"""Steps of an offload share from nothing to everything."""

POLICIES = ("auto", "paper", "no-offload", "full-offload", "lean", "full-recompute")
"""auto: the cheapest decisions that fit. paper: keep or offload, by the share that hides under the
next subsequence. full-offload: everything but K, V and the last subsequence. lean: keep the block's
input and the attention's output, recompute the rest. full-recompute: keep the block's input."""

OffloadShare = Callable[[int, int], float]
"""(chunk, subsequence) -> offloaded share of the bytes that may be offloaded, 0 to 1."""


def choose(problem: StageProblem, policy: str) -> StageDecisions:
    """The decisions of a named policy. Raises LayoutDoesNotFit if none of its choices fits."""
    match policy:
        case "no-offload":
            return uniform(problem)
        case "full-offload":
            return uniform(problem, share=1.0)
        case "paper":
            return uniform(problem, share=problem.hidden_share)
        case "lean":
            return uniform(problem, recomputable(problem, problem.block.recompute_lean))
        case "full-recompute":
            return uniform(problem, recomputable(problem, problem.block.recompute_full))
    return _cheapest(problem)


def recompute_levels(problem: StageProblem) -> list[Decision]:
    """Three levels of recomputation: none, the cheap tensors, all but those of the mixer."""
    return [recomputable(problem, names) for names in problem.block.recompute_levels[:3]]


def recomputable(problem: StageProblem, names: Sequence[str]) -> Decision:
    """Recompute these saved tensors of every block, as far as the model has them; keep the rest."""
    known = problem.shapes[0].saved_tensors
    return Decision(recompute=tuple(name for name in names if name in known))


def uniform(
    problem: StageProblem, decision: Decision = KEEP, share: OffloadShare | float = 0.0
) -> list[list[Decision]]:
    """The same recomputation everywhere; all subsequences but the last offload their share.

    A function `share` must give equal chunks the same.
    """
    last = len(problem.lengths) - 1

    def row(part: int) -> list[Decision]:
        shares = [share(part, index) if callable(share) else share for index in range(last)]
        offloaded = [problem.offload(part, *entry, decision) for entry in enumerate(shares)]
        return [*offloaded, decision]

    return problem.by_kind(row)


def _cheapest(problem: StageProblem) -> StageDecisions:
    """Of every ladder the first rung that fits; of those the least added time."""
    if problem.workload.device_memory_bytes is None:
        return uniform(problem)
    fitting: list[tuple[int, StageDecisions]] = []
    shorts: list[LayoutDoesNotFit] = []
    for rungs, rung in _ladders(problem):
        try:
            decisions = _first_that_fits(problem, rungs, rung)
        except LayoutDoesNotFit as short:
            shorts.append(short)
            continue
        fitting.append((problem.added_ns(decisions), decisions))
        if fitting[-1][0] == 0:
            break
    if not fitting:
        raise min(shorts, key=lambda short: short.bytes)
    return min(fitting, key=lambda entry: entry[0])[1]


Rung = Callable[[int], StageDecisions]


def _first_that_fits(problem: StageProblem, last: int, rung: Rung) -> StageDecisions:
    """The lowest rung that fits the device.

    Raises LayoutDoesNotFit if the last rung does not fit the device, or the found one not the host.
    """
    problem.require_device_fit(problem.memory(rung(last)))
    least = bisect_left(
        range(last), 0, key=lambda number: -problem.excess_bytes(problem.memory(rung(number)))
    )
    decisions = rung(least)
    problem.require_fit(problem.memory(decisions))
    return decisions


def _ladders(problem: StageProblem) -> Iterator[tuple[int, Rung]]:
    """(last rung, rung -> decisions): each rung needs less device memory than the one below.

    One kind offloads more and more of what a recomputation level leaves, up to what hides or
    beyond. The other offloads what hides, and recomputes in more and more subsequences.
    """
    count = len(problem.lengths)
    levels = recompute_levels(problem)
    hiding = (True, False) if problem.profile.overlapped_copies else (False,)
    for level in levels:
        for capped in hiding:
            yield LEVELS * (count - 1), _offload_rung(problem, level, capped)
    for hidden in hiding:
        yield 2 * count, _recompute_rung(problem, levels, hidden)


def _steps(number: int, count: int) -> list[int]:
    """`number` steps dealt to `count` subsequences, one each in turn, the earliest first."""
    whole, ahead = divmod(number, max(1, count))
    return [whole + (index < ahead) for index in range(count)]


def _offload_rung(problem: StageProblem, level: Decision, capped: bool) -> Rung:
    def rung(number: int) -> StageDecisions:
        steps = _steps(number, len(problem.lengths) - 1)

        def share(part: int, index: int) -> float:
            cap = problem.hidden_share(part, index, level) if capped else 1.0
            return min(steps[index] / LEVELS, cap)

        return uniform(problem, level, share)

    return rung


def _recompute_rung(problem: StageProblem, levels: Sequence[Decision], hidden: bool) -> Rung:
    def rung(number: int) -> StageDecisions:
        chosen = [levels[min(2, step)] for step in _steps(number, len(problem.lengths))]

        def row(part: int) -> list[Decision]:
            decisions = []
            for index, decision in enumerate(chosen):
                share = problem.hidden_share(part, index, decision) if hidden else 0.0
                decisions.append(problem.offload(part, index, share, decision))
            return decisions

        return problem.by_kind(row)

    return rung

"""Named policies: which decisions a stage's tensors get, from the ablation's plain ones to ours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from sppo.config.errors import Short
from sppo.memory_model.stage_memory import KEEP, Decision, StageDecisions
from sppo.planner.activations.stage_problem import StageProblem

LEVELS = 32
"""Steps of an offload share from nothing to everything."""

POLICIES = ("auto", "paper", "no-offload", "full-offload", "lean", "full-recompute")
"""auto: the cheapest decisions that fit. paper: keep or offload, by the share that hides under the
next subsequence. full-offload: everything but K, V and the last subsequence. lean: keep the block's
input and the attention's output, recompute the rest. full-recompute: keep the block's input."""


def choose(problem: StageProblem, policy: str) -> StageDecisions:
    """The decisions of a named policy. Raises Short if none of its choices fits."""
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


def recompute_fates(problem: StageProblem) -> list[Decision]:
    """What our own policy may make again: from nothing to all but what the mixer makes."""
    block = problem.block
    return [
        recomputable(problem, names) for names in ((), block.recompute_cheap, block.recompute_lean)
    ]


def recomputable(problem: StageProblem, names: Sequence[str]) -> Decision:
    """Keep all but these units of every block; those that the model does not have are ignored."""
    known = problem.shapes[0].units
    return Decision(recompute=tuple(name for name in names if name in known))


def uniform(
    problem: StageProblem,
    decision: Decision = KEEP,
    share: float | Callable[[int, int], float] = 0.0,
) -> list[list[Decision]]:
    """The same recomputation everywhere; all subsequences but the last offload their share.

    `share` is a number, or a function of part and subsequence that is the same for equal parts.
    """
    last = len(problem.lengths) - 1

    def row(part: int) -> list[Decision]:
        decisions = []
        for index in range(last):
            offloaded = share(part, index) if callable(share) else share
            decisions.append(problem.offload(part, index, offloaded, decision))
        return [*decisions, decision]

    return problem.by_kind(row)


def _cheapest(problem: StageProblem) -> StageDecisions:
    """Ours: the ladders of `_ladders`, each up to its first rung that fits; the cheapest wins."""
    if problem.device_limit_bytes is None:
        return uniform(problem)
    found: list[tuple[int, StageDecisions]] = []
    short: Short | None = None
    for rungs, rung in _ladders(problem):
        try:
            decisions = _first_that_fits(problem, rungs, rung)
        except Short as error:
            if short is None or error.bytes < short.bytes:
                short = error
            continue
        found.append((problem.added_ns(decisions), decisions))
        if found[-1][0] == 0:
            break
    if not found:
        assert short is not None
        raise short
    return min(found, key=lambda entry: entry[0])[1]


Rung = Callable[[int], StageDecisions]


def _first_that_fits(problem: StageProblem, last: int, rung: Rung) -> StageDecisions:
    """The lowest rung that fits the device. Raises Short if the last does not, or the host is."""
    top = problem.memory(rung(last))
    if problem.excess_bytes(top) > 0:
        problem.require_fit(top)
    least = bisect_left(
        range(last), 0, key=lambda number: -problem.excess_bytes(problem.memory(rung(number)))
    )
    decisions = rung(least)
    problem.require_fit(problem.memory(decisions))
    return decisions


def _ladders(problem: StageProblem) -> Iterator[tuple[int, Rung]]:
    """(last rung, rung -> decisions): each rung needs less device memory than the one below.

    Offload more and more of what the recomputation level leaves, up to what hides or beyond; or
    send what hides and recompute in more and more subsequences, the earliest first.
    """
    subsequences = len(problem.lengths)
    last = LEVELS * max(0, subsequences - 1)
    levels = recompute_fates(problem)
    for level in levels:
        for capped in (True, False) if problem.profile.overlapped_copies else (False,):
            yield last, _offload_rung(problem, level, capped)
    for hidden in (True, False) if problem.profile.overlapped_copies else (False,):
        yield 2 * subsequences, _recompute_rung(problem, levels, hidden)


def _offload_rung(problem: StageProblem, level: Decision, capped: bool) -> Rung:
    def rung(number: int) -> StageDecisions:
        shares = _shares(number, len(problem.lengths) - 1)

        def share(part: int, index: int) -> float:
            cap = problem.hidden_share(part, index, level) if capped else 1.0
            return min(shares[index], cap)

        return uniform(problem, level, share)

    return rung


def _recompute_rung(problem: StageProblem, levels: Sequence[Decision], hidden: bool) -> Rung:
    subsequences = len(problem.lengths)

    def rung(number: int) -> StageDecisions:
        step, ahead = divmod(number, subsequences)

        def row(part: int) -> list[Decision]:
            found = []
            for index in range(subsequences):
                decision = levels[min(2, step + (index < ahead))]
                share = problem.hidden_share(part, index, decision) if hidden else 0.0
                found.append(problem.offload(part, index, share, decision))
            return found

        return problem.by_kind(row)

    return rung


def _shares(level: int, subsequences: int) -> list[float]:
    """Offload shares of all subsequences but the last, from nothing (0) to everything.

    From level to level one more subsequence, the earliest first, goes one step of 1 / LEVELS up.
    """
    if subsequences == 0:
        return []
    step, ahead = divmod(level, subsequences)
    return [(step + (index < ahead)) / LEVELS for index in range(subsequences)]

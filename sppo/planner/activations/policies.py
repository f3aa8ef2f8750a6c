"""Named policies: which decisions a stage's tensors get, from the ablation's plain ones to ours."""

from __future__ import annotations

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
    """From no recomputation to that of everything but the mixer's output."""
    return [recomputable(problem, names) for names in problem.block.recompute_levels[:-1]]


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
        if fitting and problem.added_ns(rung(0)) >= min(fitting, key=_first)[0]:
            continue
        try:
            decisions = _first_that_fits(problem, rungs, rung)
        except LayoutDoesNotFit as short:
            shorts.append(short)
            continue
        fitting.append((problem.added_ns(decisions), decisions))
    if not fitting:
        raise min(shorts, key=lambda short: short.bytes)
    return min(fitting, key=_first)[1]


def _first(entry: tuple[int, StageDecisions]) -> int:
    return entry[0]


def ladder_choices(problem: StageProblem) -> list[StageDecisions | None]:
    """Of every ladder the first rung that fits, in a fixed order; None where no rung fits.

    `_cheapest` takes that of the least added time. Another may be faster where the pipeline waits.
    """
    if problem.workload.device_memory_bytes is None:
        return []
    choices: list[StageDecisions | None] = []
    for rungs, rung in _ladders(problem):
        try:
            choices.append(_first_that_fits(problem, rungs, rung))
        except LayoutDoesNotFit:
            choices.append(None)
    return choices


Rung = Callable[[int], StageDecisions]


def _first_that_fits(problem: StageProblem, last: int, rung: Rung) -> StageDecisions:
    """The lowest rung that fits the device.

    Raises LayoutDoesNotFit if the last rung does not fit the device, or the found one not the host.
    """

    def excess(number: int) -> int:
        return problem.excess_bytes(problem.memory(rung(number)))

    most = problem.memory(rung(last))
    problem.require_device_fit(most)
    decisions = rung(_lowest(last, -problem.excess_bytes(most), excess))
    problem.require_fit(problem.memory(decisions))
    return decisions


def _lowest(last: int, spare: int, excess: Callable[[int], int]) -> int:
    """The lowest number up to `last` without excess, which falls nearly in proportion to it.

    At `last` so many bytes are to spare. Regula falsi (Illinois): half the probes of a bisection.
    """
    over = excess(0)
    if over <= 0 or last == 0:
        return 0
    low, high, weighted, under = 0, last, float(over), float(spare)
    is_low: bool | None = None
    while high - low > 1:
        share = weighted / (weighted + under)
        number = low + min(max(1, round((high - low) * share)), high - low - 1)
        bytes_over = excess(number)
        if bytes_over > 0:
            low, weighted = number, float(bytes_over)
            under /= 2 if is_low else 1
        else:
            high, under = number, float(-bytes_over)
            weighted /= 2 if is_low is False else 1
        is_low = bytes_over > 0
    return high


def _ladders(problem: StageProblem) -> Iterator[tuple[int, Rung]]:
    """(last rung, rung -> decisions): each rung needs less device memory than the one below.

    One kind offloads more and more of what a recomputation level leaves, up to what hides or
    beyond. The other offloads what hides, and recomputes in more and more subsequences. Those that
    mostly add least come first.
    """
    count = len(problem.lengths)
    levels = recompute_levels(problem)
    for hidden in (True, False) if problem.profile.overlapped_copies else (False,):
        yield LEVELS * (count - 1), _offload_rung(problem, levels[0], hidden)
        yield (len(levels) - 1) * count, _recompute_rung(problem, levels, hidden)
        for level in levels[1:]:
            yield LEVELS * (count - 1), _offload_rung(problem, level, hidden)


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
        chosen = [levels[step] for step in _steps(number, len(problem.lengths))]

        def row(part: int) -> list[Decision]:
            decisions = []
            for index, decision in enumerate(chosen):
                share = problem.hidden_share(part, index, decision) if hidden else 0.0
                decisions.append(problem.offload(part, index, share, decision))
            return decisions

        return problem.by_kind(row)

    return rung

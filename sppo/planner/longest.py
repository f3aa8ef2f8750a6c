"""The longest sequence that fits: what an infeasible plan tells besides what is short. No torch.

Every layout has a length up to which it fits. Only the finest cuts are looked at, which need the
least memory, and one and two parts a stage, of which more hold no less. Layouts whose model state,
KV and dKV alone rule out more than what was already found are skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sppo.config.errors import Short
from sppo.config.hardware import Hardware
from sppo.config.sizes import parse_tokens
from sppo.config.workload import Workload
from sppo.planner.activations import policies
from sppo.planner.activations.feasibility import require_some_fates
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.candidates import CANDIDATES, every_layout, interleavings
from sppo.planner.layouts.degrees import every_degree
from sppo.planner.layouts.partition import ALIGNMENT_TOKENS
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.options import SolverOptions

PRECISION = 1.03
"""The length found is at least the true one divided by this."""

LEAST_TOKENS = 16
"""Below this nothing is worth a plan."""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """All layouts of one SP, PP, parts a stage and place of K and V, whatever the length."""

    workload: Workload
    profile: Hardware
    options: SolverOptions

    def fits(self, tokens: int) -> bool:
        """Whether the solver's finest cut of that many tokens fits; capped, where it tries one."""
        options = self.options
        if options.subsequences is not None:
            if options.subsequences > tokens:
                return False
            return _fits(
                self._layout(tokens, options.subsequences, options.longest_tokens), options
            )
        alignment = 1 if tokens < 1024 else ALIGNMENT_TOKENS * (options.sequence_parallel or 1)
        counts = [n for n in CANDIDATES if n * alignment <= tokens] or [1]
        cap = options.longest_tokens
        if options.solver == "paper":  # sends only what hides: a coarser cut may need less
            return any(_fits(self._layout(tokens, n, cap), options) for n in counts)
        count = counts[-1]
        if options.cut_of(options.pipeline_parallel or 1) == "flops" and cap is None:
            cap = 2 * -(-tokens // count)
        return _fits(self._layout(tokens, count, cap), options)

    def may_fit(self, tokens: int) -> bool:
        """False only if model state, KV and dKV alone are too much, whatever the cut."""
        if self.options.solver == "paper":  # its memory model has no dKV
            return True
        layout = self._layout(tokens, 1, None)
        try:
            for stage in {0, layout.pipeline_parallel - 1}:
                stage_problem(layout, stage).require_room()
        except Short:
            return False
        return True

    def _layout(self, tokens: int, count: int, cap: int | None) -> TimedLayout:
        shards = self.options.sequence_parallel or 1
        whole = max(tokens // shards, 1) * shards
        shorter = replace(self.workload, sequence_tokens=max(2, whole))
        options = replace(self.options, subsequences=count, longest_tokens=cap)
        (layout,) = every_layout(shorter, self.profile, options)
        return layout


def longest_tokens(workload: Workload, profile: Hardware, options: SolverOptions) -> int:
    """The longest sequence that fits, at most the workload's, rounded down to a readable one.

    Within a few per cent of the true one (`PRECISION` and the rounding); 0 if none fits. With the
    exact solver it is the heuristic's, so a lower bound.
    """
    best = 0
    families: list[_Family] = []
    for family in _families(workload, profile, options):
        found = _longest(family, best, workload.sequence_tokens)
        families.insert(0 if found > best else len(families), family)
        best = max(best, found)
    readable = round_down(best)
    while readable >= LEAST_TOKENS and not any(family.fits(readable) for family in families):
        readable = round_down(readable - 1)
    return readable if readable >= LEAST_TOKENS else 0


def _families(workload: Workload, profile: Hardware, options: SolverOptions) -> Iterator[_Family]:
    """Those with the most room first, so that what is found there rules the others out.

    K and V in the host tier, and the most ranks a stage: fewer messages and smaller subsequences.
    """
    places: tuple[bool | None, ...] = (options.kv_offload,)
    if options.solver == "paper":
        places = (False,)
    elif options.kv_offload is None:
        places = (True, False)
    layers = workload.model.layers
    for place in places:
        found = every_degree(
            workload, options.sequence_parallel, options.pipeline_parallel, options.data_parallel
        )
        for shards, stages, replicas in reversed(found):
            for parts in interleavings(layers, stages, options.virtual_stages)[:2]:
                if options.solver == "paper" and parts > 1:
                    continue
                chosen = replace(
                    options,
                    sequence_parallel=shards,
                    pipeline_parallel=stages,
                    data_parallel=replicas,
                    virtual_stages=parts,
                    kv_offload=place,
                )
                yield _Family(workload=workload, profile=profile, options=chosen)


def longest_words(workload: Workload, profile: Hardware, options: SolverOptions) -> str:
    """The end of an infeasible plan's message."""
    tokens = longest_tokens(workload, profile, options)
    if tokens == 0:
        return "even a very short one does not fit"
    return f"the longest that fits has about {words(tokens)} tokens"


def words(tokens: int) -> str:
    """A count that people read, rounded down by less than a 16th: "5.6M", "1.37M", "912K"."""
    for unit, suffix in ((1024**2, "M"), (1024, "K")):
        if tokens >= (unit if suffix == "M" else 16 * unit):
            digits = 2 if suffix == "M" and tokens < 4 * unit else int(suffix == "M")
            whole = int((tokens + 0.49) * 10**digits / unit)  # of what it names it is the name
            return f"{whole / 10**digits:.{digits}f}{suffix}"
    return str(tokens // 16 * 16)


def round_down(tokens: int) -> int:
    """The length that `words` names."""
    return parse_tokens(words(tokens))


def _longest(family: _Family, known: int, asked: int) -> int:
    """Bisection by ratio between what is known to fit (by another family) and what cannot."""
    low, high = max(known, LEAST_TOKENS - 1), asked
    if not family.may_fit(round(low * PRECISION) + 1):
        return 0
    high = _bisect(low, high, family.may_fit)[1]
    if known == 0:  # nothing to start from: halve until something fits
        while high > LEAST_TOKENS and not family.fits(high // 2):
            high //= 2
        low = high // 2
        return _bisect(low, high, family.fits)[0] if high > LEAST_TOKENS else 0
    if not family.fits(round(low * PRECISION) + 1):
        return 0
    return _bisect(low, high, family.fits)[0]


def _bisect(low: int, high: int, good: Callable[[int], bool]) -> tuple[int, int]:
    """`low` is good, `high` is not: closer together, to PRECISION."""
    while high > low * PRECISION and high - low > 1:
        middle = math.isqrt(low * high)
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, high


def _fits(layout: TimedLayout, options: SolverOptions) -> bool:
    """Whether the solver would find a plan in this layout."""
    try:
        for stage in {0, layout.pipeline_parallel - 1}:
            problem = stage_problem(layout, stage)
            if options.solver == "paper":
                _require_printed(problem)
                continue
            problem.require_room()
            if options.policy == "auto":
                require_some_fates(problem)
            else:
                problem.require_fit(problem.memory(policies.choose(problem, options.policy)))
    except Short:
        return False
    return True


def _require_printed(problem: StageProblem) -> None:
    from sppo.planner.paper_heuristic import printed_bytes

    limit = problem.device_limit_bytes
    if limit is not None and (excess := printed_bytes(problem) - limit) > 0:
        raise Short(excess, "device memory by the paper's model")

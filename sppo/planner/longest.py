"""The longest sequence that fits, which an infeasible plan's message names. No torch.

Every layout has a length up to which it fits. Of the cuts two are tried, with one and two chunks a
stage; more chunks hold no less. The finest cut needs the least device memory for saved tensors. The
undivided sequence, with K and V on the device, needs no sums of dK and dV. Another cut may fit a
little more; much more where the host tier is short, or with the policy "full-offload". The search
skips layouts whose model state, KV and dKV alone leave no room for a longer sequence than the best
so far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sppo.config.errors import LayoutDoesNotFit
from sppo.config.hardware import Hardware
from sppo.config.sizes import parse_tokens
from sppo.config.workload import Workload
from sppo.planner.activations import policies
from sppo.planner.activations.feasibility import require_some_decisions
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.candidates import (
    CANDIDATES,
    MOST_GATHERED,
    divisions_to_try,
    every_layout,
    interleavings,
    weights_to_try,
)
from sppo.planner.layouts.degrees import every_degree
from sppo.planner.layouts.partition import ALIGNMENT_TOKENS
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.options import SolverOptions
from sppo.planner.paper_heuristic import printed_bytes
from sppo.planner.search.least_added import least_added

PRECISION = 1.03
"""The length found is at least the true one divided by this."""

LEAST_TOKENS = 16
"""Tokens of the shortest sequence that is planned."""


@dataclass(frozen=True, kw_only=True)
class _Family:
    """All layouts of one SP, PP, chunks a stage and place of K and V, whatever the length."""

    workload: Workload
    profile: Hardware
    options: SolverOptions

    def fits(self, tokens: int) -> bool:
        """Whether the coarsest or the finest cut of so many tokens fits, with the cap if any."""
        options = self.options
        cap, count = options.longest_tokens, options.subsequences
        if count is not None:
            return count <= tokens and _fits(self._layout(tokens, count, cap), options)
        if self._may_be_undivided and _fits(self._layout(tokens, 1, cap), options):
            return True
        alignment = 1 if tokens < 1024 else ALIGNMENT_TOKENS * (options.sequence_parallel or 1)
        most = MOST_GATHERED if (options.context_parallel or 1) > 1 else CANDIDATES[-1]
        counts = [n for n in CANDIDATES if n * alignment <= tokens and n <= most] or [1]
        if options.solver == "paper":  # offloads only what hides: a coarser cut may need less
            return any(_fits(self._layout(tokens, n, cap), options) for n in counts)
        if options.cut_of(options.pipeline_parallel or 1) == "flops" and cap is None:
            cap = 2 * -(-tokens // counts[-1])
        return _fits(self._layout(tokens, counts[-1], cap), options)

    def may_fit(self, tokens: int) -> bool:
        """False only if model state, KV and dKV alone are too much, whatever the cut."""
        if self.options.solver == "paper":  # the paper's memory model has no dKV
            return True
        undivided = self._layout(tokens, 1, None)
        return _passes(undivided, StageProblem.require_room)

    @property
    def _may_be_undivided(self) -> bool:
        return not self.options.kv_offload and self.options.solver != "paper"

    def _layout(self, tokens: int, count: int, cap: int | None) -> TimedLayout:
        shards = self.options.sequence_parallel or 1
        shared = max(tokens // shards, 1) * shards
        shorter = replace(self.workload, sequence_tokens=max(2, shared))
        options = replace(self.options, subsequences=count, longest_tokens=cap, exchange_pieces=1)
        (layout,) = every_layout(shorter, self.profile, options)
        return layout


def longest_tokens(workload: Workload, profile: Hardware, options: SolverOptions) -> int:
    """Tokens of the longest sequence that fits, at most the workload's, rounded down for people.

    A lower bound, within a few per cent for the cuts that are tried (`PRECISION` and the rounding);
    0 if none fits. For the exact solver the length is the heuristic's.
    """
    best = 0
    families: list[_Family] = []
    for family in _families(workload, profile, options):
        longest = _longest(family, best, workload.sequence_tokens)
        families.insert(0 if longest > best else len(families), family)
        best = max(best, longest)
    readable = round_down(best)
    while readable >= LEAST_TOKENS and not any(family.fits(readable) for family in families):
        readable = round_down(readable - 1)
    return readable if readable >= LEAST_TOKENS else 0


def _families(workload: Workload, profile: Hardware, options: SolverOptions) -> Iterator[_Family]:
    """Families with the most room first: their length rules many of the others out.

    Most room: K and V in the host tier, sharded weights, the most ranks a stage, and the least
    Ulysses degree.
    """
    paper = options.solver == "paper"
    places: tuple[bool | None, ...] = (options.kv_offload,)
    if paper or (options.context_parallel or 1) > 1:
        places = (False,)
    elif options.kv_offload is None:
        places = (True, False)
    degrees = every_degree(workload, options)
    for place, (shards, stages, replicas) in itertools.product(places, reversed(degrees)):
        counts = interleavings(workload.model.layers, stages, options.virtual_stages)
        divisions = divisions_to_try(workload, replace(options, kv_offload=place), shards)
        for (ulysses, context), parts in itertools.product(divisions, counts[:2]):
            if paper and parts > 1:
                continue
            tensor, copies = shards // (ulysses * context), ulysses * context * replicas
            layers = workload.model.layers // stages
            sharded = weights_to_try(options, tensor, copies, layers)
            if not sharded:
                continue
            chosen = replace(
                options,
                sequence_parallel=shards,
                ulysses_parallel=ulysses,
                context_parallel=context,
                pipeline_parallel=stages,
                data_parallel=replicas,
                virtual_stages=parts,
                kv_offload=place,
                weights="sharded" if sharded[-1] else "whole",
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
    mega, kilo = 1024**2, 1024
    forms = ((4 * mega, mega, 1, "M"), (mega, mega, 2, "M"), (16 * kilo, kilo, 0, "K"))
    for least, unit, digits, suffix in forms:
        if tokens >= least:
            whole = int(
                (tokens + 0.49) * 10**digits / unit
            )  # the name of a named length is that name
            return f"{whole / 10**digits:.{digits}f}{suffix}"
    return str(tokens // 16 * 16)


def round_down(tokens: int) -> int:
    """The length that `words` names."""
    return parse_tokens(words(tokens))


def _longest(family: _Family, known: int, asked: int) -> int:
    """Tokens, by bisection between a length that fits (`known`) and one that cannot; 0: no gain."""
    low, high = max(known, LEAST_TOKENS - 1), asked
    if not family.may_fit(round(low * PRECISION) + 1):
        return 0
    high = _bisect(low, high, family.may_fit)[1]
    if known == 0:  # no length to start from: halve until one fits
        while high > LEAST_TOKENS and not family.fits(high // 2):
            high //= 2
        low = high // 2
        return _bisect(low, high, family.fits)[0] if high > LEAST_TOKENS else 0
    if not family.fits(round(low * PRECISION) + 1):
        return 0
    return _bisect(low, high, family.fits)[0]


def _bisect(low: int, high: int, good: Callable[[int], bool]) -> tuple[int, int]:
    """The largest good and least bad length, to PRECISION; `low` is good, `high` is not."""
    while high > low * PRECISION and high - low > 1:
        middle = math.isqrt(low * high)
        middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, high


def _fits(layout: TimedLayout, options: SolverOptions) -> bool:
    """Whether the solver would find a plan in this layout."""

    def require(problem: StageProblem) -> None:
        limit = problem.workload.device_memory_bytes
        if options.solver == "paper":
            if limit is not None and (excess := printed_bytes(problem) - limit) > 0:
                raise LayoutDoesNotFit(excess, "device memory by the paper's model")
            return None
        problem.require_room()
        if options.policy == "auto":
            least_added(problem).require_fit(problem)  # a quick test
            return require_some_decisions(problem)
        return problem.require_fit(problem.memory(policies.choose(problem, options.policy)))

    return _passes(layout, require)


def _passes(layout: TimedLayout, require: Callable[[StageProblem], None]) -> bool:
    """Whether `require` raises no LayoutDoesNotFit on the first and the last stage."""
    try:
        for stage in layout.end_stages:
            require(stage_problem(layout, stage))
    except LayoutDoesNotFit:
        return False
    return True

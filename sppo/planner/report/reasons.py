"""Why a plan was chosen: each sentence is true of the plan at hand. No torch.

A comparison is with a layout of the plan's own search. Where that layout was simulated, the
sentence names the simulated step ("simulated 1.2% slower"). Else it names the layout's lower bound
("at least 0.8% slower"), by which the search stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from sppo.plan.layout import Layout
from sppo.plan.plan import Plan
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.report.memory_reasons import copy_reasons, memory_reasons
from sppo.planner.report.wording import counted
from sppo.planner.search.log import Search


def explain(
    plan: Plan, layout: TimedLayout, search: Search, before: tuple[Plan, TimedLayout] | None = None
) -> tuple[str, ...]:
    """Sentences on degrees, all-to-alls, chunks, N, cap, K and V, on memory, and on copies.

    `layout` is the plan's. `before` is the search's best plan without MSP, if `plan` was made of
    it: then the comparisons are of that plan.
    """
    compared = _Comparisons(*(before or (plan, layout)), search)
    prefix = "without MSP, " if before else ""
    comparisons = (
        compared.degrees(),
        *compared.division(),
        *compared.chunks(),
        compared.count(),
        *compared.cap(),
        *compared.place(),
    )
    return (
        *(prefix + text for text in comparisons),
        *memory_reasons(plan, layout),
        *copy_reasons(plan, layout),
    )


class _Comparisons:
    """A plan compared with the other layouts of its search."""

    def __init__(self, plan: Plan, layout: TimedLayout, search: Search) -> None:
        self.plan = plan
        self.layout = layout
        self.search = search
        of_degrees = self._of_degrees(layout)
        hosted = bool(layout.kv_block_tokens)
        self.same_degrees = [
            member
            for member in of_degrees
            if bool(member.kv_block_tokens) == hosted
            and member.sharded_weights == layout.sharded_weights
        ]
        self.other_place = [
            member for member in of_degrees if bool(member.kv_block_tokens) != hosted
        ]
        self.other_cuts = [
            cut
            for cut in self.same_degrees
            if cut.virtual_stages == layout.virtual_stages
            and cut.lengths_tokens != layout.lengths_tokens
        ]

    def _of_degrees(self, layout: TimedLayout) -> list[TimedLayout]:
        layouts = self.search.layouts
        return [member for member in layouts if member.degrees == layout.degrees]

    def degrees(self) -> str:
        """The next best SP x PP x DP, by compute alone."""
        layout, layouts = self.layout, self.search.layouts
        rivals = [rival for rival in layouts if rival.degrees != layout.degrees]
        if not rivals:
            return f"{layout.degrees_words}: no other degrees were allowed"
        rival = min(rivals, key=lambda member: member.least_seconds)
        best = min(member.least_seconds for member in self.same_degrees)
        return (
            f"{layout.degrees_words}: the next best degrees, {rival.degrees_words}, need "
            f"{rival.least_seconds:.3f} s of compute alone against {best:.3f} s "
            f"({rival.least_seconds / best - 1:+.1%}); {self._verdict(self._of_degrees(rival))}"
        )

    def division(self) -> Iterator[str]:
        """All-to-alls and gathered K and V inside a stage, or none, where the search had both."""
        yield from self._with_and_without(
            "all-to-alls inside a stage", lambda layout: layout.ulysses_parallel > 1
        )
        yield from self._with_and_without(
            "gathered K and V inside a stage (CP)", lambda layout: layout.context_parallel > 1
        )
        yield from self._with_and_without(
            "weights of blocks in pieces", lambda layout: layout.sharded_weights
        )

    def _with_and_without(self, what: str, has: Callable[[Layout], bool]) -> Iterator[str]:
        """The best layout that differs in this."""
        here = has(self.layout)
        others = [member for member in self.search.layouts if has(member) != here]
        if others:
            words = ("", "without") if here else ("no ", "with")
            yield f"{words[0]}{what}: {words[1]} them, {self._verdict(others)}"

    def chunks(self) -> Iterator[str]:
        """Every other number of model chunks a stage, for the same degrees."""
        chosen = self.layout.virtual_stages
        verdicts = []
        for count in sorted({layout.virtual_stages for layout in self.same_degrees} - {chosen}):
            group = [layout for layout in self.same_degrees if layout.virtual_stages == count]
            verdicts.append(f"with {count}, {self._verdict(group)}")
        if verdicts:
            yield f"{counted(chosen, 'model chunk')} a stage: {'; '.join(verdicts)}"

    def count(self) -> str:
        """The next smaller and the next larger N, for the same degrees and model chunks."""
        cuts = {layout.subsequences: layout for layout in self.other_cuts}
        chosen = self.layout.subsequences
        fewer = sorted(count for count in cuts if count < chosen)[-1:]
        more = sorted(count for count in cuts if count > chosen)[:1]
        work, ends = self.layout.work_and_ends_seconds
        words = [
            f"N {chosen}: {work:.3f} s of work on the fullest stage and {ends:.3f} s of waiting at "
            f"the pipeline's ends"
        ]
        for count in (*fewer, *more):
            work, ends = cuts[count].work_and_ends_seconds
            words.append(
                f"N {count} has {work:.3f} + {ends:.3f} s ({self._verdict([cuts[count]])})"
            )
        return "; ".join(words if len(words) > 1 else [*words, "no other N was allowed"])

    def cap(self) -> Iterator[str]:
        """The cuts that differ by a cap: it splits early lengths and leaves the late ones."""
        layout = self.layout
        starts = set(layout.starts_tokens)
        for cut in self.other_cuts:
            if cut.lengths_tokens[-1] != layout.lengths_tokens[-1]:
                continue
            longest, verdict = max(cut.lengths_tokens), self._verdict([cut])
            if set(cut.starts_tokens) < starts:
                yield (
                    f"lengths are capped at {max(layout.lengths_tokens):,} tokens: without the cap "
                    f"the first length would be {longest:,} tokens and N would be "
                    f"{cut.subsequences} ({verdict})"
                )
            elif set(cut.starts_tokens) > starts:
                yield (
                    f"early lengths are not capped: with a cap of {longest:,} tokens on every "
                    f"length N would be {cut.subsequences} ({verdict})"
                )

    def place(self) -> Iterator[str]:
        """K and V in the other tier, for the same degrees."""
        if self.other_place:
            tiers = ["on the device", "in the host tier"]
            here, there = tiers[:: -1 if self.layout.kv_block_tokens else 1]
            yield f"K and V {here}: {there}, {self._verdict(self.other_place)}"

    def _verdict(self, group: Sequence[TimedLayout]) -> str:
        """The search's result for a group of layouts, in a few words."""
        search, makespan = self.search, self.plan.makespan_seconds
        seconds = [search.seconds[layout] for layout in group if layout in search.seconds]
        if seconds:
            return f"simulated {min(seconds) / makespan - 1:.2%} slower"
        possible = [layout for layout in group if not search.is_short(layout)]
        if not possible:
            families = {layout.family for layout in group}
            shorts = [short for layout, short in search.short.items() if layout.family in families]
            nearest = min(shorts, key=lambda short: short.bytes)
            return f"does not fit: the nearest layout is short of {nearest}"
        least = search.least_bound(possible)
        if least >= makespan:
            return f"at least {_rounded_down(least / makespan - 1)} slower"
        return "not simulated: enough layouts with lower bounds were"


def _rounded_down(share: float) -> str:
    """Per cent with two digits; never above the share, of which it is a lower bound."""
    return f"{math.floor(max(0.0, share) * 1e4) / 1e2:.2f}%"

"""Why a plan is what it is: what bound, in words, each sentence true of the plan at hand. No torch.

Every comparison is with a layout that the search really had before it: with its simulated step
where it was simulated ("simulated 1.2% slower"), else with its compute alone ("estimated"), which
the search stops by. That is no strict bound: simulated steps fall below it by up to 0.3 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sppo.plan.plan import Plan
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.report.memory_reasons import copy_reasons, memory_reasons
from sppo.planner.search_log import Search


def explain(
    plan: Plan, layout: TimedLayout, search: Search, before: tuple[Plan, TimedLayout] | None = None
) -> tuple[str, ...]:
    """Why these degrees, parts, N and cap, what memory forced, and which copies cost time.

    `before` is what the search had found without MSP, if the plan came of it: comparisons are its.
    """
    compared, its_layout = before or (plan, layout)
    comparisons = (
        *_degrees(compared, its_layout, search),
        *_parts(compared, its_layout, search),
        *_count(compared, its_layout, search),
        *_cap(compared, its_layout, search),
    )
    without = "" if before is None else "without MSP, "
    return (
        *(without + words for words in comparisons),
        *memory_reasons(plan, layout),
        *copy_reasons(plan, layout),
    )


def _degrees(plan: Plan, layout: TimedLayout, search: Search) -> Iterator[str]:
    others = [one for one in search.layouts if one.degrees_words != layout.degrees_words]
    name = layout.degrees_words
    if not others:
        yield f"{name}: no other degrees were allowed"
        return
    other = min(others, key=lambda one: one.least_seconds)
    alike = [one for one in others if one.degrees_words == other.degrees_words]
    best = _best(layout, search)
    least = other.least_seconds
    verdict = _verdict(plan, alike, search)
    if least >= plan.makespan_seconds and not any(one in search.seconds for one in alike):
        verdict = f"this plan takes {plan.makespan_seconds:.3f} s in all"
    yield (
        f"{name}: the next best degrees, {other.degrees_words}, take {least:.3f} s in compute "
        f"alone against {best:.3f} s ({least / best - 1:+.1%}); {verdict}"
    )


def _best(layout: TimedLayout, search: Search) -> float:
    """Least compute alone of the chosen degrees."""
    return min(
        one.least_seconds for one in search.layouts if one.degrees_words == layout.degrees_words
    )


def _parts(plan: Plan, layout: TimedLayout, search: Search) -> Iterator[str]:
    alike = [one for one in search.layouts if one.degrees_words == layout.degrees_words]
    counts = sorted({one.virtual_stages for one in alike} - {layout.virtual_stages})
    if not counts:
        return
    chosen = layout.virtual_stages
    words = []
    for count in counts:
        group = [one for one in alike if one.virtual_stages == count]
        words.append(f"with {count}, {_verdict(plan, group, search)}")
    yield f"{chosen} part{'s' if chosen > 1 else ''} a stage: {'; '.join(words)}"


def _count(plan: Plan, layout: TimedLayout, search: Search) -> Iterator[str]:
    alike = {one.subsequences: one for one in _siblings(layout, search)}
    count = layout.subsequences
    fewer = max((n for n in alike if n < count), default=None)
    more = min((n for n in alike if n > count), default=None)
    work, ends = layout.work_and_ends_seconds
    words = f"N {count}: {work:.3f} s of work on the fullest stage and {ends:.3f} s at the ends"
    found = []
    for other in (fewer, more):
        if other is not None:
            work, ends = alike[other].work_and_ends_seconds
            verdict = _verdict(plan, [alike[other]], search)
            found.append(f"N {other} has {work:.3f} + {ends:.3f} s ({verdict})")
    yield f"{words}; {'; '.join(found)}" if found else f"{words}; no other N was allowed"


def _cap(plan: Plan, layout: TimedLayout, search: Search) -> Iterator[str]:
    """A cap splits the early lengths of another cut and leaves its late ones."""
    mine = set(layout.starts_tokens)
    for other in _siblings(layout, search):
        theirs = set(other.starts_tokens)
        if other.lengths_tokens[-1] != layout.lengths_tokens[-1]:
            continue
        verdict = _verdict(plan, [other], search)
        if theirs < mine:
            yield (
                f"lengths are capped at {max(layout.lengths_tokens):,} tokens: without the cap the "
                f"first would have {other.lengths_tokens[0]:,} and N be {other.subsequences} "
                f"({verdict})"
            )
        elif theirs > mine:
            yield (
                f"no cap on the early lengths: one of {max(other.lengths_tokens):,} tokens makes N "
                f"{other.subsequences} ({verdict})"
            )


def _siblings(layout: TimedLayout, search: Search) -> list[TimedLayout]:
    """The other cuts of the same degrees and parts a stage."""
    return [
        one
        for one in search.layouts
        if one.degrees_words == layout.degrees_words
        and one.virtual_stages == layout.virtual_stages
        and one.lengths_tokens != layout.lengths_tokens
    ]


def _verdict(plan: Plan, group: Sequence[TimedLayout], search: Search) -> str:
    """What came of these layouts, in a few words."""
    seconds = [search.seconds[one] for one in group if one in search.seconds]
    if seconds:
        return f"simulated {min(seconds) / plan.makespan_seconds - 1:.2%} slower"
    shorts = [search.short[one] for one in group if one in search.short]
    if shorts:
        nearest = min(shorts, key=lambda short: short.bytes)
        if len(group) == 1:
            return f"does not fit: short of {nearest}"
        return f"those tried do not fit: the nearest is short of {nearest}"
    least = min(one.least_seconds for one in group)
    if least >= plan.makespan_seconds:
        return f"estimated {least / plan.makespan_seconds - 1:.2%} slower"
    return "not simulated: enough layouts of less compute were"

"""In which order a stage computes: of one sequence, and of several, one after another or mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sppo.plan.layout import Layout
from sppo.plan.msp import with_slices


class Compute(NamedTuple):
    """One forward or backward of a subsequence of a sequence in a stage's `virtual`-th part."""

    forward: bool
    sequence: int
    virtual: int
    subsequence: int


def stage_computes(layout: Layout, stage: int, sequences: int) -> list[Compute]:
    """Everything that a stage computes in a step of so many sequences, in order.

    `virtual` is the place among `layout.parts_of(stage)`: its own parts, then the borrowed ones.
    """
    return _all_sequences(
        forward_order(layout, stage),
        sequences=sequences,
        mixed=layout.kv_sets > 1,
        ahead=layout.pipeline_parallel - 1 - stage,
    )


def forward_order(layout: Layout, stage: int) -> list[tuple[int, int]]:
    """(place in `layout.parts_of(stage)`, subsequence) of a stage's forwards of one sequence.

    Its backwards are the reverse.
    """
    head = layout.head_alone and stage == 0
    order = _interleaved(
        layout.virtual_stages, layout.subsequences, layout.group_subsequences, head
    )
    return with_slices(
        order,
        layout.slicing,
        stage,
        layout.parts_of(stage),
        head=layout.virtual_stages if head else None,
    )


def _interleaved(
    virtual_stages: int, subsequences: int, group: int, head: bool
) -> list[tuple[int, int]]:
    """(virtual stage, subsequence) of a stage's forwards where nothing is lent.

    Megatron's interleaved order: a group of at least PP subsequences passes all parts before the
    next one begins. Larger groups have the same bubble and more slack between the stages.
    With `head` the stage has the head as one part more. It comes after the next group's first part,
    because the last stage needs that long, and after the last group where the stage would wait.
    """
    order: list[tuple[int, int]] = []
    waiting: list[tuple[int, int]] = []
    for first in range(0, subsequences, group):
        members = range(first, min(first + group, subsequences))
        for virtual in range(virtual_stages):
            order += [(virtual, index) for index in members]
            if virtual == 0:
                order += waiting
                waiting = []
        waiting = [(virtual_stages, index) for index in members] if head else []
    return order + waiting


def _all_sequences(
    order: list[tuple[int, int]], *, sequences: int, mixed: bool, ahead: int
) -> list[Compute]:
    """All computes of a stage, whose forwards of one sequence have this order.

    Not mixed: sequence after sequence. Mixed: the next sequence's forwards alternate with this
    one's backwards, `ahead` forwards ahead (PP - 1 on the first stage, 0 on the last), so that only
    the first sequence fills the pipeline and only the last one drains it. Two sequences at most
    have their keys and values at the same time.
    """
    count, total = len(order), len(order) * sequences
    forwards = [Compute(True, s, *where) for s in range(sequences) for where in order]
    backwards = [Compute(False, s, *where) for s in range(sequences) for where in reversed(order)]
    lead = count + ahead if mixed else count
    computes: list[Compute] = []
    begun = done = 0
    while done < total:
        sequence_done = done - done % count
        room = sequence_done + (2 if mixed else 1) * count
        while begun < min(total, done + lead, room) and (mixed or done % count == 0):
            computes.append(forwards[begun])
            begun += 1
        computes.append(backwards[done])
        done += 1
    return computes


class Change(NamedTuple):
    """One subsequence in a stage's `virtual`-th part is kept or used up, leaves or comes back."""

    kept: int
    away: int
    virtual: int
    subsequence: int


def residency(computes: Sequence[Compute], *, overlapped: bool) -> Iterator[list[Change]]:
    """For every compute what has changed, since the one before, when the device is at its fullest.

    A forward's activations leave after it and are fetched before their backward. Where copies
    overlap, the last forward's are still on their way out, and those of the next backward already
    on their way back.
    """
    backwards = [compute for compute in computes if not compute.forward]
    away: set[Compute] = set()
    leaving: Compute | None = None
    changes: list[Change] = []
    done = 0
    for compute in computes:
        if compute.forward:
            yield [*changes, Change(1, 0, compute.virtual, compute.subsequence)]
            gone = leaving if overlapped else compute
            leaving = compute if overlapped else None
            away.add(compute._replace(forward=False))
            changes = [Change(0, 1, gone.virtual, gone.subsequence)] if gone else []
            continue
        if leaving is not None:
            changes.append(Change(0, 1, leaving.virtual, leaving.subsequence))
            leaving = None
        for following in backwards[done : done + (2 if overlapped else 1)]:
            if following in away:
                away.discard(following)
                changes.append(Change(0, -1, following.virtual, following.subsequence))
        done += 1
        yield changes
        changes = [Change(-1, 0, compute.virtual, compute.subsequence)]

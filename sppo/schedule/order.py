"""In which order a stage computes: of one sequence, and of several, one after another or mixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sppo.plan.layout import Layout


class Compute(NamedTuple):
    """One forward or backward of a subsequence of a sequence in a stage's `virtual`-th chunk."""

    forward: bool
    sequence: int
    virtual: int
    subsequence: int


def stage_computes(layout: Layout, stage: int, sequences: int) -> list[Compute]:
    """Everything that a stage computes in a step of so many sequences, in order.

    `virtual` is the place among `layout.parts_of(stage)`: its own chunks, then those it helps with.
    Sequences follow each other, or are mixed where `kv_sets` is 2: the next sequence's forwards
    alternate with this one's backwards, PP - 1 forwards ahead on the first stage and none on the
    last. So only the first sequence fills the pipeline, and only the last one drains it.
    """
    order = forward_order(layout, stage)
    mixed = layout.kv_sets > 1
    count, total = len(order), len(order) * sequences
    forwards = [Compute(True, s, *place) for s in range(sequences) for place in order]
    backwards = [Compute(False, s, *place) for s in range(sequences) for place in reversed(order)]
    lead = count + (layout.pipeline_parallel - 1 - stage if mixed else 0)
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


def forward_order(layout: Layout, stage: int) -> list[tuple[int, int]]:
    """(place in `layout.parts_of(stage)`, subsequence) of a stage's forwards of one sequence.

    Its backwards are the reverse.
    """
    head = layout.virtual_stages if layout.head_alone and stage == 0 else None
    order = _interleaved(layout, head)
    return _with_slices(order, layout, stage, head)


def _with_slices(
    order: Sequence[tuple[int, int]], layout: Layout, stage: int, head: int | None
) -> list[tuple[int, int]]:
    """A stage's forwards, (place in `layout.parts_of`, subsequence), with its slices at the ends.

    `order` are its forwards without MSP. First come the slices that fill the pipeline, by chunk,
    then its own forwards, then the slices that drain it. Where the head is a chunk of its own
    (place `head`), they come before the loss of the first of them.
    """
    parts = layout.parts_of(stage)
    ends: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for msp_split in layout.msp_splits:
        if stage in msp_split.ranks:
            place = parts.index(msp_split.part)
            ends[msp_split.fills] += [(place, index) for index in msp_split.subsequences]
    sliced = {*ends[True], *ends[False]}
    own = [forward for forward in order if forward not in sliced]
    drained = {index for _, index in ends[False]}
    late = [n for n, (place, index) in enumerate(own) if place == head and index in drained]
    split = late[0] if late else len(own)
    return [*ends[True], *own[:split], *ends[False], *own[split:]]


def _interleaved(layout: Layout, head: int | None) -> list[tuple[int, int]]:
    """(virtual stage, subsequence) of a stage's forwards without MSP.

    Megatron's interleaved order: a group of at least PP subsequences passes all chunks before the
    next one begins. Larger groups have the same bubble and more slack between the stages. A head
    alone (place `head`) comes after the next group's first chunk: the last stage needs that long.
    The last group's head comes at the end, where the stage would wait.
    """
    order: list[tuple[int, int]] = []
    waiting: list[tuple[int, int]] = []
    group = layout.group_subsequences
    for first in range(0, layout.subsequences, group):
        members = range(first, min(first + group, layout.subsequences))
        for virtual in range(layout.virtual_stages):
            order += [(virtual, index) for index in members]
            if virtual == 0:
                order += waiting
                waiting = []
        if head is not None:
            waiting = [(head, index) for index in members]
    return order + waiting


class Change(NamedTuple):
    """One subsequence in a stage's `virtual`-th chunk is saved or used up, offloaded or reloaded.

    Of each pair the first is +1, the second -1.
    """

    kept: int
    away: int
    virtual: int
    subsequence: int


def residency(computes: Sequence[Compute], *, overlapped: bool) -> Iterator[list[Change]]:
    """For every compute the changes since the compute before, when the device is at its peak.

    A forward's saved tensors are offloaded after it and reloaded before their backward. Where
    copies overlap, those of the last forward still lie on the device, and those of the next
    backward already do.
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
            away.add(Compute(False, *compute[1:]))
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

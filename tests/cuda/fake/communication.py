"""What NCCL does with the recorded programs of all ranks: order, deadlocks, room on the device.

A call that NCCL has started holds its CTAs until its peers have come, and CTAs of NCCL share no SM
with a compute kernel (github.com/NVIDIA/nccl/issues/689). On an H100 an uncapped communicator opens
32 channels, a CTA each (issue 1685). A communicator takes 10 MiB, and 2 MiB for each channel.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sppo.config.sizes import GIB, MIB
from tests.cuda.fake.nccl import Call, Communicator, Note, Wait

UNCAPPED_CTAS = 32
H100_SMS = 132
SM_BUDGET = H100_SMS // 2
"""SMs that waiting receives and running collectives may hold together beside a compute."""

RESERVE_BYTES = 5 * GIB // 2
"""Device memory that plans leave to context, NCCL, workspaces and fragments."""

Program = Sequence[Call | Wait | Note]
Programs = Mapping[int, Program]
"""By rank."""


def _ctas(call: Call) -> int:
    return call.max_ctas or UNCAPPED_CTAS


def _calls(program: Program) -> Iterator[Call]:
    return (each for each in program if isinstance(each, Call))


def order_findings(programs: Programs) -> list[str]:
    """Calls that do not match: a message of another size, collectives in another order."""
    findings = []
    sides: defaultdict[tuple[Communicator, int, int], tuple[list[Call], list[Call]]]
    sides = defaultdict(lambda: ([], []))
    shared: defaultdict[Communicator, dict[int, list[Call]]] = defaultdict(dict)
    for rank, program in programs.items():
        for call in _calls(program):
            if call.peer is None:
                shared[call.communicator].setdefault(rank, []).append(call)
                continue
            is_send = call.operation == "send"
            ends = (rank, call.peer) if is_send else (call.peer, rank)
            sides[call.communicator, *ends][not is_send].append(call)
    for (communicator, source, target), (sends, receives) in sides.items():
        for number, pair in enumerate(zip_longest(sends, receives)):
            if _differ(pair):
                where = f"message {number} of group {communicator.group}, {source} to {target}"
                findings.append(f"{where}: {' but '.join(map(_words, pair))}")
    for communicator, by_rank in shared.items():
        lists = [by_rank.get(rank, []) for rank in communicator.members]
        for number, meeting in enumerate(zip_longest(*lists)):
            if _differ(meeting):
                where = f"collective {number} of group {communicator.group}"
                findings.append(f"{where}: {' but '.join(sorted(set(map(_words, meeting))))}")
    return findings


def _differ(calls: Sequence[Call | None]) -> bool:
    shapes = {(call.elements, call.dtype) if call else None for call in calls}
    kinds = {call.operation for call in calls if call and call.peer is None}
    return len(shapes) > 1 or len(kinds) > 1


def _words(call: Call | None) -> str:
    if call is None:
        return "nothing"
    return f"{call.operation} of {call.elements} {call.dtype} ({call.line})"


class _Queues:
    """Every rank's calls on its NCCL streams: each stream runs one call at a time, in order."""

    def __init__(self) -> None:
        self.done: set[tuple[int, int]] = set()
        self._queues: defaultdict[tuple[int, Communicator], deque[tuple[int, Call]]]
        self._queues = defaultdict(deque)

    def add(self, rank: int, place: int, call: Call) -> None:
        self._queues[rank, call.communicator].append((place, call))

    def run(self) -> bool:
        """Complete each communicator's first calls, where all its ranks have come; any?"""
        progress = False
        for communicator in {key[1] for key, queue in self._queues.items() if queue}:
            queues = [self._queues[rank, communicator] for rank in communicator.members]
            while all(queues) and _matches([queue[0][1] for queue in queues]):
                for rank, queue in zip(communicator.members, queues, strict=True):
                    self.done.add((rank, queue.popleft()[0]))
                progress = True
        return progress

    def waiting(self) -> list[str]:
        return [
            f"rank {rank} waits in {_words(queue[0][1])} on group {key.group}"
            for (rank, key), queue in sorted(self._queues.items())
            if queue
        ]


def _matches(calls: Sequence[Call]) -> bool:
    if calls[0].peer is None:
        return len({call.operation for call in calls}) == 1
    return {call.operation for call in calls} == {"send", "receive"}


def deadlock_findings(programs: Programs) -> list[str]:
    """Calls that never end: the compute stream reaches calls in program order and stops at waits.

    A send ends when its receive has started, as if NCCL had no buffers.
    """
    queues = _Queues()
    reached = dict.fromkeys(programs, 0)
    progress = True
    while progress:
        progress = queues.run()
        for rank, program in programs.items():
            while reached[rank] < len(program):
                step = program[reached[rank]]
                if isinstance(step, Wait) and (rank, step.call) not in queues.done:
                    break
                if isinstance(step, Call):
                    queues.add(rank, reached[rank], step)
                reached[rank] += 1
                progress = True
    return queues.waiting()


@dataclass(frozen=True, kw_only=True)
class Room:
    """The most that NCCL holds on one rank: SMs beside a compute, and communicators."""

    waiting_receives: int
    held_sms: int
    communicators: int
    communicator_bytes: int

    def findings(self) -> list[str]:
        found = []
        if self.held_sms > SM_BUDGET:
            found.append(
                f"{self.waiting_receives} waiting receives: NCCL may hold {self.held_sms} SMs of "
                f"{H100_SMS} beside a compute, and {SM_BUDGET} are allowed"
            )
        if self.communicator_bytes > RESERVE_BYTES:
            found.append(
                f"{self.communicators} communicators take {self.communicator_bytes / GIB:.1f} GiB "
                f"of the reserve of {RESERVE_BYTES / GIB:.1f}"
            )
        return found


def room_of(program: Program) -> Room:
    """Upper bounds: every receive that is not waited for yet may still wait for its sender.

    A stream runs one call at a time, so a communicator counts once. Sends end with their receives
    and are not counted.
    """
    caps: dict[Communicator, int] = {}
    outstanding: dict[int, Call] = {}
    most_sms = most_receives = 0
    following = [*program[1:], None]
    for place, (step, next_step) in enumerate(zip(program, following, strict=True)):
        if isinstance(step, Wait):
            outstanding.pop(step.call, None)
            continue
        if isinstance(step, Call):
            caps[step.communicator] = _ctas(step)
            if next_step == Wait(place):
                continue  # nothing computes beside it
            if step.operation != "send":
                outstanding[place] = step
        held = {call.communicator: _ctas(call) for call in outstanding.values()}
        receives = Counter(
            call.communicator for call in outstanding.values() if call.peer is not None
        )
        most_sms = max(most_sms, sum(held.values()))
        most_receives = max(most_receives, len(receives))
    return Room(
        waiting_receives=most_receives,
        held_sms=most_sms,
        communicators=len(caps),
        communicator_bytes=sum(10 * MIB + 2 * MIB * cap for cap in caps.values()),
    )

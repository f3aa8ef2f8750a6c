"""What NCCL does with the recorded programs of all ranks: order, deadlocks, room on the device.

A call that NCCL has started holds its CTAs until its peers have come, and CTAs of NCCL share no SM
with a compute kernel (github.com/NVIDIA/nccl/issues/689). On an H100 an uncapped communicator opens
32 channels, a CTA each (issue 1685). A communicator takes 10 MiB, and 2 MiB for each channel.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import zip_longest
from operator import or_

from sppo.config.sizes import GIB, MIB
from tests.cuda.fake.nccl import Call, Communicator, Compute, Wait
from tests.cuda.fake.streams import merge

UNCAPPED_CTAS = 32
H100_SMS = 132
SM_BUDGET = H100_SMS // 2
"""SMs that waiting receives and running collectives may hold together beside a compute."""

RESERVE_BYTES = 5 * GIB // 2
"""Device memory that plans leave to context, NCCL, workspaces and fragments."""

Program = Sequence[Call | Wait | Compute]
Programs = Mapping[int, Program]
"""By rank."""

Place = tuple[int, int]
"""Rank, and the place of a step in its program."""


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
        self.peers: dict[Place, list[Place]] = {}
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
                places = [
                    (rank, queue.popleft()[0])
                    for rank, queue in zip(communicator.members, queues, strict=True)
                ]
                self.peers.update((place, places) for place in places)
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


class _Rank:
    """How far a rank's compute stream is in its program.

    `known`: by rank, the step up to which this rank knows that rank to be. `beside`: for each
    compute, what is known then, and the calls that are not waited for.
    """

    def __init__(self, rank: int, program: Program) -> None:
        self.rank = rank
        self.program = program
        self.reached = 0
        self.known: dict[int, int] = {}
        self.called: dict[int, dict[int, int]] = {}
        self.outstanding: dict[int, Call] = {}
        self.beside: list[tuple[dict[int, int], dict[int, Call]]] = []

    def step(self, queues: _Queues, ranks: Mapping[int, _Rank]) -> bool:
        """Take the next step; False at the end, or before a wait that has not ended."""
        if self.reached == len(self.program):
            return False
        step = self.program[self.reached]
        match step:
            case Wait(call):
                peers = queues.peers.get((self.rank, call))
                if peers is None:
                    return False
                for rank, place in peers:
                    merge(self.known, ranks[rank].called[place])
                self.outstanding.pop(call, None)
            case Compute():
                if self.outstanding:
                    self.beside.append((dict(self.known), dict(self.outstanding)))
            case Call():
                self.called[self.reached] = {**self.known, self.rank: self.reached}
                queues.add(self.rank, self.reached, step)
                if step.operation != "send":
                    self.outstanding[self.reached] = step
        self.known[self.rank] = self.reached
        self.reached += 1
        return True


@dataclass(frozen=True, kw_only=True)
class Room:
    """The most that NCCL holds on a rank: SMs beside a compute, and communicators.

    uncapped: communicators of messages without `max_ctas`.

    A receive waits where nothing that this rank has waited for says that its sender has come.
    A communicator runs one call at a time. Sends end with their receives and are not counted.
    """

    waiting_receives: int = 0
    held_sms: int = 0
    communicators: int = 0
    communicator_bytes: int = 0
    uncapped: int = 0

    def findings(self) -> list[str]:
        """Empty where compute has its SMs, and the reserve its bytes."""
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

    def __or__(self, other: Room) -> Room:
        """The larger of each."""
        return Room(**{key: max(value, vars(other)[key]) for key, value in vars(self).items()})


class Run:
    """All ranks' programs, each as far as it comes.

    The compute stream reaches calls in program order and stops at waits. A send ends when its
    receive has started, as if NCCL had no buffers.
    """

    def __init__(self, programs: Programs) -> None:
        self._queues = _Queues()
        self._ranks = {rank: _Rank(rank, program) for rank, program in programs.items()}
        progress = True
        while progress:
            progress = self._queues.run()
            for rank in self._ranks.values():
                while rank.step(self._queues, self._ranks):
                    progress = True

    def deadlocks(self) -> list[str]:
        """Calls that never end."""
        return self._queues.waiting()

    def room(self) -> Room:
        """The most of any rank."""
        return reduce(or_, map(self._room_of, self._ranks.values()), Room())

    def _room_of(self, rank: _Rank) -> Room:
        caps = {each.communicator: _ctas(each) for each in _calls(rank.program)}
        held = [self._held(rank, *beside) for beside in rank.beside]
        return Room(
            waiting_receives=max((_receives(each) for each in held), default=0),
            held_sms=max((sum(map(_ctas, each)) for each in held), default=0),
            communicators=len(caps),
            communicator_bytes=sum(10 * MIB + 2 * MIB * cap for cap in caps.values()),
            uncapped=len(
                {
                    each.communicator
                    for each in _calls(rank.program)
                    if each.peer is not None and each.max_ctas is None
                }
            ),
        )

    def _held(self, rank: _Rank, known: dict[int, int], outstanding: dict[int, Call]) -> list[Call]:
        """One call of each communicator that may run beside a compute."""
        calls = {
            call.communicator: call
            for place, call in outstanding.items()
            if not self._has_come(known, rank.rank, place, call)
        }
        return list(calls.values())

    def _has_come(self, known: dict[int, int], rank: int, place: int, call: Call) -> bool:
        """Is it known that the sender of a receive has reached its send?"""
        if call.peer is None:
            return False
        peers = dict(self._queues.peers.get((rank, place), ()))
        return call.peer in peers and known.get(call.peer, -1) >= peers[call.peer]


def _receives(calls: Sequence[Call]) -> int:
    return sum(call.peer is not None for call in calls)

"""The part of torch.distributed that `sppo.comm` uses, as NCCL orders it, for one rank.

Every pair of ranks of a group has a communicator and a stream of its own, and so has every group
for its collectives. A call waits for the stream that issues it, and a wait lets the current stream
wait, never the host. All calls and waits are recorded in `program`, for `communication.py`. With a
`network` numbers really move between the threads of one process, as late as NCCL may move them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from tests.cuda.fake.courier import Courier
from tests.cuda.fake.memory import DeviceMemory
from tests.cuda.fake.network import Network
from tests.cuda.fake.streams import Event, Line, Stream, source_line

Members = tuple[int, ...]


class Options:
    """ProcessGroupNCCL.Options; `config.max_ctas` is None where nobody sets it."""

    def __init__(self, is_high_priority_stream: bool = False) -> None:
        self.is_high_priority_stream = is_high_priority_stream
        self.config = SimpleNamespace(max_ctas=None, min_ctas=None, cga_cluster_size=None)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A process group: its number is the same on all ranks. `rank`: the own rank."""

    number: int
    members: Members
    rank: int
    max_ctas: int | None = None

    def size(self) -> int:
        return len(self.members)

    def index(self) -> int:
        return self.members.index(self.rank)


class Communicator(NamedTuple):
    """An NCCL communicator of these ranks; point-to-point ones are of two."""

    group: int
    members: Members
    point_to_point: bool


class Call(NamedTuple):
    """One send, receive or collective; `peer`: the other rank of a message."""

    operation: str
    communicator: Communicator
    peer: int | None
    elements: int
    dtype: str
    max_ctas: int | None
    line: Line | str


class Wait(NamedTuple):
    """The current stream waits for the call at this place of the program."""

    call: int


class Compute(NamedTuple):
    """The compute stream has worked between the calls and waits around this."""


@dataclass(eq=False)
class NcclWork:
    """A call in flight, which keeps its tensors until it is waited for."""

    rank: NcclRank
    place: int
    event: Event
    tensors: Sequence[Tensor]
    finish: Callable[[], None] | None

    def wait(self, timeout: Any = None) -> bool:
        self.rank.memory.gpu.current_stream.wait_event(self.event)
        self.rank.record(Wait(self.place))
        if self.finish is not None:
            self.finish()
        self.tensors = ()
        return True


@dataclass(kw_only=True)
class NcclRank:
    """torch.distributed as one rank of `ranks` sees it."""

    rank: int
    ranks: int
    memory: DeviceMemory
    network: Network | None = None
    courier: Courier | None = None
    program: list[Call | Wait | Compute] = field(default_factory=list)

    ProcessGroupNCCL = SimpleNamespace(Options=Options)

    def __post_init__(self) -> None:
        self._groups = 0
        self._computed = 0
        self._streams: dict[Communicator, Stream] = {}
        self._collectives: dict[int, int] = {}
        self.group = SimpleNamespace(WORLD=self._join(range(self.ranks), None))

    @property
    def calls(self) -> int:
        """Sends, receives and collectives so far."""
        return sum(isinstance(each, Call) for each in self.program)

    def record(self, step: Call | Wait) -> None:
        """Add a step to the program, behind the compute since the last one."""
        main = self.memory.gpu.main
        work = main.clock.get(main.number, 0)
        if work > self._computed:
            self.program.append(Compute())
            self._computed = work
        self.program.append(step)

    # Groups.

    def _join(self, members: Sequence[int], options: Any) -> Group:
        number = self._groups
        self._groups += 1
        config = getattr(options, "config", None)
        cap = getattr(config, "max_ctas", None)
        return Group(number=number, members=tuple(members), rank=self.rank, max_ctas=cap)

    def is_initialized(self) -> bool:
        return True

    def get_rank(self, group: Group | None = None) -> int:
        return self.rank if group is None else group.index()

    def get_world_size(self, group: Group | None = None) -> int:
        return self.ranks if group is None else group.size()

    def get_backend(self, group: Group | None = None) -> str:
        return "nccl"

    def new_group(
        self, ranks: Sequence[int] | None = None, pg_options: Any = None, **_: Any
    ) -> Group:
        return self._join(range(self.ranks) if ranks is None else ranks, pg_options)

    def new_subgroups_by_enumeration(
        self, lists: Sequence[Sequence[int]], pg_options: Any = None, **_: Any
    ) -> tuple[Group, list[Group]]:
        groups = [self._join(members, pg_options) for members in lists]
        (own,) = [group for group in groups if self.rank in group.members]
        return own, groups

    # Messages.

    def _start(
        self,
        call: Call,
        reads: Tensor | None,
        writes: Tensor | None,
        finish: Callable[[], None] | None,
    ) -> NcclWork:
        gpu, communicator = self.memory.gpu, call.communicator
        stream = self._streams.get(communicator)
        if stream is None:
            kind = "messages" if communicator.point_to_point else "collectives"
            members = "-".join(map(str, communicator.members))
            name = f"NCCL's stream of {kind} {members}, group {communicator.group}"
            stream = self._streams[communicator] = Stream(name=name, gpu=gpu)
        stream.wait_stream(gpu.current_stream)
        gpu.issue(stream)
        for tensor, does in ((reads, False), (writes, True)):
            if tensor is not None:
                self.memory.access(tensor, writes=does, operator=call.operation, stream=stream)
        if self.courier is not None and writes is not None:
            same = reads is not None and _storage(reads) == _storage(writes)
            if not same:
                self.courier.overwrite(writes, stream.clock)
        self.record(call)
        kept = [tensor for tensor in (reads, writes) if tensor is not None]
        return NcclWork(self, len(self.program) - 1, stream.record_event(), kept, finish)

    def _message(self, tensor: Tensor, peer: int, group: Group | None, sends: bool) -> NcclWork:
        group = group or self.group.WORLD
        pair = tuple(sorted((self.rank, peer)))
        call = Call(
            "send" if sends else "receive",
            Communicator(group.number, pair, True),
            peer,
            tensor.numel(),
            str(tensor.dtype),
            group.max_ctas,
            source_line(),
        )
        assert tensor.is_contiguous(), f"NCCL takes contiguous tensors only: {call}"
        finish = None
        work = self._start(call, *((tensor, None) if sends else (None, tensor)), None)
        if self.network is not None:
            source, target = (self.rank, peer) if sends else (peer, self.rank)
            connection = group.number, source, target
            finish = self.network.message(connection, tensor.detach(), sends=sends)
        work.finish = finish
        return work

    def isend(self, tensor: Tensor, dst: int, group: Group | None = None, tag: int = 0) -> NcclWork:
        return self._message(tensor, dst, group, True)

    def irecv(self, tensor: Tensor, src: int, group: Group | None = None, tag: int = 0) -> NcclWork:
        return self._message(tensor, src, group, False)

    def send(self, tensor: Tensor, dst: int, group: Group | None = None, tag: int = 0) -> None:
        self.isend(tensor, dst, group).wait()

    def recv(self, tensor: Tensor, src: int, group: Group | None = None, tag: int = 0) -> None:
        self.irecv(tensor, src, group).wait()

    # Collectives.

    def _collective(
        self, operation: str, source: Tensor, into: Tensor, group: Group | None, lasts: bool
    ) -> NcclWork | None:
        group = group or self.group.WORLD
        call = Call(
            operation,
            Communicator(group.number, group.members, False),
            None,
            max(source.numel(), into.numel()),
            str(source.dtype),
            group.max_ctas,
            source_line(),
        )
        work = self._start(call, source, into, None)
        if self.network is not None:
            number = self._collectives.get(group.number, 0)
            self._collectives[group.number] = number + 1
            place = group.number, group.members, number
            work.finish = self.network.collective(
                place, group.index(), operation, source.detach(), into.detach()
            )
        if lasts:
            return work
        work.wait()
        return None

    def all_reduce(
        self, tensor: Tensor, op: Any = None, group: Group | None = None, async_op: bool = False
    ) -> NcclWork | None:
        return self._collective("all_reduce", tensor, tensor, group, async_op)

    def all_gather(
        self, into: Tensor, rows: Tensor, group: Group | None = None, async_op: bool = False
    ) -> NcclWork | None:
        return self._collective("all_gather", rows, into, group, async_op)

    def reduce_scatter(
        self, into: Tensor, rows: Tensor, group: Group | None = None, async_op: bool = False
    ) -> NcclWork | None:
        return self._collective("reduce_scatter", rows, into, group, async_op)

    def all_to_all_single(
        self, into: Tensor, rows: Tensor, group: Group | None = None, async_op: bool = False
    ) -> NcclWork | None:
        return self._collective("all_to_all", rows, into, group, async_op)

    all_gather_single = all_gather_into_tensor = all_gather
    reduce_scatter_single = reduce_scatter_tensor = reduce_scatter


def _storage(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key

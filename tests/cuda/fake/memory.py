"""Every access of a rank to its storages, and the accesses that no event orders.

Two accesses to the same bytes of which one writes need an order: the same stream, or an event that
one stream records and the other waits for. A storage goes back to the stream that took it, at once;
so work of other streams on it must be done by then, or named by `record_stream`.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from tests.cuda.fake.regions import Region
from tests.cuda.fake.streams import Gpu, Line, Stream, source_line

_lock = threading.RLock()
"""One for all ranks: a storage may be freed on the thread of another rank."""


_VERBS = {False: "read", True: "write"}


class Finding(NamedTuple):
    """Two accesses without an order: what is wrong, the earlier one, the later one."""

    kind: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.first}, then {self.second}"


class _Access(NamedTuple):
    work: int
    operator: str
    writes: bool
    stream: Stream
    line: Line

    def words(self, role: str) -> str:
        verb = "writes" if self.writes else "reads"
        return f"{self.operator} {verb} {role} on {self.stream.name} ({self.line})"


@dataclass(eq=False)
class _Life:
    """A storage while it lives. `accesses`: by stream, then by region and whether it writes.

    latest: by stream, its last work here.
    """

    born_on: Stream
    reference: weakref.ref[Any] | None = None
    role: str = "a temporary"
    accesses: dict[int, dict[tuple[Region, bool], _Access]] = field(default_factory=dict)
    latest: dict[int, int] = field(default_factory=dict)
    recorded: set[int] = field(default_factory=set)


class DeviceMemory:
    """The storages of one rank. `findings` counts each pair of accesses without an order.

    ignore_frees_of: the device type of storages that no stream takes again (the host's).
    """

    def __init__(self, gpu: Gpu, ignore_frees_of: str = "") -> None:
        self.gpu = gpu
        self.findings: Counter[Finding] = Counter()
        self.accesses = 0
        self.side_accesses = 0
        self.closed = False
        self._ignore_frees_of = ignore_frees_of
        self._lives: dict[int, _Life] = {}

    def _life(self, tensor: Tensor) -> _Life:
        storage = tensor.untyped_storage()
        key = storage._cdata
        life = self._lives.get(key)
        if life is None or life.reference is None or life.reference() is None:
            life = self._lives[key] = _Life(self.gpu.current_stream)
            ignore = tensor.device.type == self._ignore_frees_of
            life.reference = weakref.ref(storage, partial(self._freed, key, life, ignore))
        return life

    def born(self, tensor: Tensor) -> None:
        """A new storage, not yet written."""
        with _lock:
            self._life(tensor)

    def label(self, kind: Any, tensor: Tensor) -> None:
        """For `EngineContext.label`: the role of a storage in findings."""
        with _lock:
            self._life(tensor).role = str(kind)

    def record_stream(self, tensor: Tensor, stream: Stream) -> None:
        """The storage is freed when this stream's work until then is done."""
        with _lock:
            self._life(tensor).recorded.add(stream.number)

    def access(
        self, tensor: Tensor, *, writes: bool, operator: str, stream: Stream | None = None
    ) -> bool:
        """The last issued work of the stream reads or writes a tensor; False if unordered."""
        if not tensor.numel():
            return True
        stream = stream or self.gpu.current_stream
        with _lock:
            life, region = self._life(tensor), Region.of(tensor)
            self.accesses += 1
            self.side_accesses += stream is not self.gpu.main
            access = _Access(self.gpu.work, operator, writes, stream, source_line())
            unordered = list(self._unordered(life, region, access))
            for earlier in unordered:
                kind = f"{_VERBS[earlier.writes]} and {_VERBS[writes]} without an order"
                words = earlier.words(life.role), access.words(life.role)
                self.findings[Finding(kind, *words)] += 1
            life.accesses.setdefault(stream.number, {})[region, writes] = access
            life.latest[stream.number] = access.work
        return not unordered

    def _unordered(self, life: _Life, region: Region, access: _Access) -> Iterator[_Access]:
        """Earlier accesses of other streams to the same bytes that nothing orders before this."""
        for number, accesses in life.accesses.items():
            if number == access.stream.number:
                continue
            done = access.stream.clock.get(number, 0)
            if life.latest[number] <= done:
                continue
            for (other, wrote), earlier in accesses.items():
                if earlier.work <= done or not (wrote or access.writes):
                    continue
                if region.shares_bytes_with(other):
                    yield earlier

    def _freed(self, key: int, life: _Life, ignore: bool, reference: weakref.ref[Any]) -> None:
        with _lock:
            if self._lives.get(key) is life:
                del self._lives[key]
            if self.closed or ignore:
                return
            for number, accesses in life.accesses.items():
                if number == life.born_on.number or number in life.recorded:
                    continue
                done = life.born_on.clock.get(number, 0)
                for access in accesses.values():
                    if access.work > done:
                        words = f"{life.role} is freed on {life.born_on.name} ({source_line()})"
                        finding = Finding(
                            "freed while another stream uses it", access.words(life.role), words
                        )
                        self.findings[finding] += 1


@contextmanager
def recorded_streams(memory_of_thread: Any) -> Iterator[None]:
    """Inside, `Tensor.record_stream` tells the memory that the function returns."""

    def record_stream(tensor: Tensor, stream: Stream) -> None:
        memory_of_thread().record_stream(tensor, stream)

    with patch.object(torch.Tensor, "record_stream", record_stream):
        yield

"""Simulated CUDA streams and events of one rank: which work is ordered before which.

Work of a rank is numbered as the host issues it. A stream's clock says, for every stream, up to
which work everything is done before the next work of this one begins (a vector clock).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from sppo.config.sizes import GIB

DEVICE_BYTES = 80 * GIB
"""What a device says that it has, all of it free."""

Clock = dict[int, int]
"""Number of a stream -> its last work that is ordered before."""

_ROOT = Path(__file__).parents[3]
_PROGRAMS = (f"{_ROOT}/sppo/", f"{_ROOT}/baselines/")
_TESTS = f"{Path(__file__).parents[1]}/test_"


class Line(NamedTuple):
    """A line of a source file."""

    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]}:{self.number}" if self.path else "autograd"


def source_line() -> Line:
    """The line of the program under proof, or of a test, that runs now."""
    frame = sys._getframe(1)
    test = Line("", 0)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PROGRAMS):
            return Line(path, frame.f_lineno)
        if not test.path and path.startswith(_TESTS):
            test = Line(path, frame.f_lineno)
        frame = frame.f_back
    return test


def merge(clock: Clock, other: Clock) -> None:
    """What is done before `other` is done before `clock`, too."""
    for stream, work in other.items():
        if work > clock.get(stream, 0):
            clock[stream] = work


class Gpu:
    """One rank's streams; `work` counts what its host has issued."""

    def __init__(self) -> None:
        self.work = 0
        self.streams: list[Stream] = []
        self.host: Clock = {}
        self.main_waits: Callable[[Clock], None] = lambda clock: None
        self.main = Stream(name="the compute stream", gpu=self)
        self._current = [self.main]

    @property
    def current_stream(self) -> Stream:
        return self._current[-1]

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        self._current.append(stream or self.current_stream)
        try:
            yield
        finally:
            self._current.pop()

    def issue(self, stream: Stream) -> int:
        """Number the next work, of this stream."""
        self.work += 1
        stream.clock[stream.number] = self.work
        return self.work

    def host_waits(self, clock: Clock) -> None:
        """The host has seen this work done: all that it issues from now on comes later."""
        merge(self.host, clock)
        for stream in self.streams:
            merge(stream.clock, self.host)
        self.main_waits(self.main.clock)

    def synchronize(self) -> None:
        for stream in self.streams:
            merge(self.host, stream.clock)
        self.host_waits(self.host)


class Stream:
    """The part of torch.cuda.Stream that orders work."""

    def __init__(
        self, device: Any = None, priority: int = 0, *, name: str = "", gpu: Gpu | None = None
    ) -> None:
        self.gpu = gpu or gpu_of_this_thread()
        self.priority = priority
        self.number = len(self.gpu.streams)
        self.name = name or f"stream {self.number} of {source_line()}"
        self.clock: Clock = dict(self.gpu.host)
        self.gpu.streams.append(self)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        self.gpu.host_waits(self.clock)

    def query(self) -> bool:
        return True


class Event:
    """The part of torch.cuda.Event that orders work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.clock: Clock = {}

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or gpu_of_this_thread().current_stream).clock)

    def wait(self, stream: Stream | None = None) -> None:
        stream = stream or gpu_of_this_thread().current_stream
        merge(stream.clock, self.clock)
        if stream is stream.gpu.main:
            stream.gpu.main_waits(stream.clock)

    def synchronize(self) -> None:
        gpu_of_this_thread().host_waits(self.clock)

    def query(self) -> bool:
        return True


_thread = threading.local()
_process: list[Gpu] = []


def gpu_of_this_thread() -> Gpu:
    """That of the rank; a thread of autograd has none of its own and takes the process's."""
    gpu: Gpu | None = getattr(_thread, "gpu", None)
    return gpu or _process[-1]


@contextmanager
def in_this_thread(gpu: Gpu) -> Iterator[None]:
    """Inside, this thread is a rank with this device."""
    _thread.gpu = gpu
    try:
        yield
    finally:
        del _thread.gpu


@contextmanager
def in_this_process(gpu: Gpu) -> Iterator[None]:
    """Inside, every thread without a device of its own has this one."""
    _process.append(gpu)
    try:
        yield
    finally:
        _process.remove(gpu)


def _synchronize(device: Any = None) -> None:
    gpu_of_this_thread().synchronize()


@contextmanager
def simulated_streams() -> Iterator[None]:
    """Inside, torch.cuda's streams and events are these."""
    with patch.multiple(
        torch.cuda,
        Stream=Stream,
        Event=Event,
        current_stream=lambda device=None: gpu_of_this_thread().current_stream,
        default_stream=lambda device=None: gpu_of_this_thread().main,
        stream=lambda stream: gpu_of_this_thread().on(stream),
        synchronize=_synchronize,
        mem_get_info=lambda device=None: (DEVICE_BYTES, DEVICE_BYTES),
        memory_reserved=lambda device=None: 0,
    ):
        yield

"""Copies of real numbers on CPU tensors, at the last moment that streams and events allow.

A copy of a side stream is queued. It runs when the compute stream or the host has waited for it,
or when a later copy that is ordered behind it runs. Until then its target holds poison (NaN as a
float). A source that is freed too early, or that nothing orders before the copy, brings poison.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tests.cuda.fake.streams import Clock, Gpu, Stream

POISON = 255
"""Of every byte: NaN in each float type, -1 in each integer type."""


@contextmanager
def unwatched() -> Iterator[None]:
    """Inside, operators are not seen by the modes of this thread."""
    with _disable_current_modes(), torch.no_grad():
        yield


def poison(tensor: Tensor) -> None:
    """Fill a contiguous tensor with poison."""
    if tensor.numel() and tensor.dim():
        tensor.view(torch.uint8).fill_(POISON)


class _Held:
    """A tensor that the queue does not keep alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage: weakref.ref[Any] = weakref.ref(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._layout = int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
        self.key = tensor.untyped_storage()._cdata

    def tensor(self) -> Tensor | None:
        """None once its storage is freed."""
        storage = self._storage()
        if storage is None:
            return None
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._layout)


@dataclass(eq=False)
class _Queued:
    stream: Stream
    work: int
    waits: Clock
    into: _Held
    source: _Held
    ordered: bool


class Courier:
    """One rank's copies of side streams; `copied` counts those that have run."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.copied = 0
        self._queue: list[_Queued] = []
        gpu.main_waits = self._settle

    def copy(self, into: Tensor, source: Tensor, *, ordered: bool) -> None:
        """Queue the last issued work of the current stream; unordered, it brings poison."""
        stream = self.gpu.current_stream
        waits = dict(stream.clock)
        self.overwrite(into, waits)
        queued = _Queued(stream, self.gpu.work, waits, _Held(into), _Held(source), ordered)
        self._queue.append(queued)

    def overwrite(self, tensor: Tensor, clock: Clock) -> None:
        """Work behind `clock` will write the tensor: poison it, after the copies before that."""
        key = tensor.untyped_storage()._cdata
        with unwatched():
            for queued in list(self._queue):
                touches = key in (queued.source.key, queued.into.key)
                if touches and clock.get(queued.stream.number, 0) >= queued.work:
                    self._run(queued)
            poison(tensor)

    def _settle(self, clock: Clock) -> None:
        """The compute stream or the host has waited."""
        with unwatched():
            for queued in list(self._queue):
                if clock.get(queued.stream.number, 0) >= queued.work:
                    self._run(queued)

    def _run(self, queued: _Queued) -> None:
        """The copy, once, after those that it waits for."""
        if queued not in self._queue:
            return
        self._queue.remove(queued)
        for earlier in list(self._queue):
            if queued.waits.get(earlier.stream.number, 0) >= earlier.work:
                self._run(earlier)
        into, source = queued.into.tensor(), queued.source.tensor()
        self.copied += 1
        if into is None:
            return
        if source is None or not queued.ordered:
            poison(into)
        else:
            into.copy_(source)

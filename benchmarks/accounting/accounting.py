"""What one step holds, computes and sends, counted the same way for every system.

A dispatch mode sees every operator below autograd. It counts storages, not tensors: a view costs
nothing, and a storage is live until its last tensor is gone. It never looks at values or
addresses, so fake tensors are counted like real ones. Unseen: scratch memory inside a kernel,
allocator rounding, operators started by a thread of one's own.

Kinds come from labels; what nobody labels is "temporary". A parameter's gradient becomes
"gradients" when autograd has accumulated it. Storages off the device, and those labelled "host",
are the host tier and no part of the device's sum. A meta tensor holds nothing, unless it is
labelled "host": the host tier of a step on fake tensors.
"""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from baselines.protocol import Kind
from benchmarks.accounting.memory_timeline import Journal
from benchmarks.accounting.operators import (
    BARRIERS,
    COLLECTIVE_NAMESPACES,
    NOT_SENT,
    Message,
    message_of,
    operator_flops,
    tensor_bytes,
)
from benchmarks.accounting.storages import noticed, plain

_ACTIVATION_KINDS: tuple[Kind, ...] = ("activations", "kv", "dkv")
_DEVICE = torch.ops.prim.device.default
_LIFT = torch.ops.aten.lift_fresh.default
_COPIES = {"copy_": 1, "_to_copy": 0}
"""Operators that may copy between the tiers, and which argument is the source."""


class _Entry:
    """One live storage. `kind` None: known, but not counted. Keys come again, serials do not."""

    __slots__ = ("kind", "nbytes", "reference", "serial")

    def __init__(self, kind: Kind | None, reference: weakref.ref[Any], serial: int) -> None:
        self.kind = kind
        self.nbytes = 0
        self.reference = reference
        self.serial = serial


class Accounting(TorchDispatchMode):
    """Counts while it is entered; knows what is live from its making until `close`.

        accounting = Accounting(device)         # labels count from here on
        accounting.adopt("weights", ...)        # then live_bytes
        with accounting:
            system.step(tokens)
        accounting.peak_bytes, accounting.flops, ...
        accounting.close()

    All sizes are bytes of this rank. `peak_by_kind` holds each kind's own peak, `at_peak_by_kind`
    what was live when the device's sum was highest, `activation_peak_bytes` the peak of
    activations, kv and dkv together. `flops_in_backward` is the part of `flops` that autograd
    computes, recomputed forwards among it. `message_*` say the same as `collective_*` by group,
    `copied_bytes` is what crossed between the tiers. A journal is told every change.

    `held_bytes` tells what the process holds in all: then `untracked_peak_bytes` is the most that
    lay beside tracked tensors after an operator, above what lay there on entering, and `refused`
    holds tracked and untracked bytes at the last operator that ended in an error.

    A communication backend may work in buffers of its own, which show when it copies out of them
    (gloo reduces and scatters a clone). Without `backend_buffers` they are left out, for comparison
    with a step on another backend.
    """

    def __init__(
        self,
        device: torch.device,
        journal: Journal | None = None,
        *,
        backend_buffers: bool = True,
        held_bytes: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self.journal = journal
        self.untracked_peak_bytes: int | None = None
        self.refused: tuple[int, int] | None = None
        self._held_bytes = held_bytes
        self._untracked_before = 0
        self.backend_buffers = backend_buffers
        self.device_type = device.type
        self.live: Counter[str] = Counter()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_by_kind: Counter[str] = Counter()
        self.at_peak_by_kind: Counter[str] = Counter()
        self.activation_peak_bytes = 0
        self.flops: Counter[str] = Counter()
        self.collective_calls: Counter[str] = Counter()
        self.flops_in_backward: Counter[str] = Counter()
        self.collective_bytes: Counter[str] = Counter()
        self.message_calls: Counter[Message] = Counter()
        self.message_bytes: Counter[Message] = Counter()
        self.copied_bytes: Counter[str] = Counter()
        self._serials = itertools.count()
        self._entries: dict[int, _Entry] = {}
        self._hooks: list[RemovableHandle] = []
        self._closed = False
        # A storage may die on another thread, or by garbage collection inside our own update.
        self._lock = threading.RLock()

    @property
    def host_peak_bytes(self) -> int:
        return self.peak_by_kind["host"]

    def label(self, kind: Kind, tensor: Tensor) -> None:
        """The storage of `tensor` holds `kind` from now on; one never seen before is live too."""
        if self._closed:
            return
        for inner in plain(tensor):
            self._touch(inner, kind)

    def adopt(self, kind: Kind, tensors: Iterable[Tensor]) -> None:
        """Label what a system says it holds; parameters also announce gradients that appear."""
        for tensor in tensors:
            self.label(kind, tensor)
            if kind == "weights" and tensor.is_leaf and tensor.requires_grad:
                self._hooks.append(tensor.register_post_accumulate_grad_hook(self._see_gradient))

    def adopt_visible(self) -> None:
        """Count every other tensor that Python can see: what was set up before the step.

        Buffers that a library allocates in advance must not be free of charge.
        """
        for item in gc.get_objects():
            if issubclass(type(item), Tensor):
                for inner in plain(item):
                    self._touch(inner)

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Never count these: mapped files that belong to no system."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            self._entries[key] = self._entry(None, storage)

    def close(self) -> None:
        """Stop listening: labels, hooks and the ends of storages cost nothing any more."""
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._entries.clear()

    def __enter__(self) -> Accounting:
        self.peak_bytes = self.live_bytes
        self.peak_by_kind = self.live.copy()
        self.at_peak_by_kind = self.live.copy()
        self.activation_peak_bytes = sum(self.live[kind] for kind in _ACTIVATION_KINDS)
        if self.journal is not None:
            self.journal.begin()
        if self._held_bytes is not None:
            self._untracked_before = self._held_bytes() - self.live_bytes
            self.untracked_peak_bytes = 0
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = noticed(self._resize, self._see_storage)  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if types and any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper (DTensor): its inner calls come back here
        kwargs = kwargs or {}
        if func.namespace == "prim":
            # Asked of fake tensors only, more often than all else together: what device is it?
            return args[0].fake_device if func is _DEVICE else func(*args, **kwargs)
        in_backward = torch._C._current_graph_task_id() >= 0
        if self.journal is not None:
            self.journal.operate(func._opname, in_backward)
        try:
            out = func(*args, **kwargs)
        except (RuntimeError, MemoryError):
            self.refused = self.live_bytes, self._untracked_bytes()
            raise
        if not self.backend_buffers and func.is_view and func is not _LIFT:
            self._ignore_unseen(out)
        self._see(args if out is None else out)
        if self.untracked_peak_bytes is not None:
            self.untracked_peak_bytes = max(self.untracked_peak_bytes, self._untracked_bytes())
        if func.namespace in COLLECTIVE_NAMESPACES:
            self._count_collective(func, args, kwargs, out)
            return out
        if func._opname in _COPIES:
            self._count_copy(args[_COPIES[func._opname]], out)
        for name, count in operator_flops(func, args, kwargs, out):
            self.flops[name] += count
            if in_backward:
                self.flops_in_backward[name] += count
        return out

    def _untracked_bytes(self) -> int:
        """What the process holds beside tracked tensors, above what it held before the step."""
        if self._held_bytes is None:
            return 0
        return self._held_bytes() - self.live_bytes - self._untracked_before

    def _see(self, value: Any) -> None:
        if isinstance(value, Tensor):
            for inner in plain(value):
                self._touch(inner)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self._see(item)

    def _ignore_unseen(self, views: Any) -> None:
        for view in views if isinstance(views, (tuple, list)) else (views,):
            if view.untyped_storage()._cdata not in self._entries:
                self.ignore([view])

    def _see_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.label("gradients", parameter.grad)

    def _see_storage(self, storage: torch.UntypedStorage) -> None:
        """A storage was resized in place, which no operator tells."""
        with self._lock:
            entry = self._entries.get(storage._cdata)
            if entry is not None and entry.kind is not None:
                self._set(entry, entry.kind, storage.nbytes())

    def _touch(self, tensor: Tensor, kind: Kind | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                if tensor.device.type == "meta" and kind != "host":
                    return
                if tensor.device.type != self.device_type:
                    first: Kind = "host"
                else:
                    first = kind or "temporary"
                entry = self._entries[key] = self._entry(first, storage)
                self._set(entry, first, storage.nbytes())
            elif entry.kind is not None:
                on_device = tensor.device.type == self.device_type
                self._set(entry, kind if kind and on_device else entry.kind, storage.nbytes())

    def _entry(self, kind: Kind | None, storage: torch.UntypedStorage) -> _Entry:
        reference = weakref.ref(storage, partial(self._drop, storage._cdata))
        return _Entry(kind, reference, next(self._serials))

    def _set(self, entry: _Entry, kind: Kind, nbytes: int) -> None:
        old = entry.kind
        if old == kind and entry.nbytes == nbytes:
            return
        assert old is not None, "an ignored storage is never set"
        self.live[old] -= entry.nbytes
        self.live[kind] += nbytes
        self.live_bytes += (nbytes if kind != "host" else 0) - (
            entry.nbytes if old != "host" else 0
        )
        entry.kind, entry.nbytes = kind, nbytes
        if self.journal is not None:
            self.journal.change(entry.serial, kind, nbytes)
        self._raise_peaks(kind)

    def _raise_peaks(self, kind: Kind) -> None:
        if self.live[kind] > self.peak_by_kind[kind]:
            self.peak_by_kind[kind] = self.live[kind]
        if kind != "host" and self.live_bytes >= self.peak_bytes:
            # Equal counts too: a label that comes at the peak corrects the breakdown.
            self.peak_bytes = self.live_bytes
            self.at_peak_by_kind = self.live.copy()
        if kind in _ACTIVATION_KINDS:
            held_bytes = sum(self.live[kind] for kind in _ACTIVATION_KINDS)
            self.activation_peak_bytes = max(self.activation_peak_bytes, held_bytes)

    def _drop(self, key: int, reference: weakref.ref[Any]) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.reference is not reference:
                return
            del self._entries[key]
            if entry.kind is not None:
                self.live[entry.kind] -= entry.nbytes
                self.live_bytes -= entry.nbytes if entry.kind != "host" else 0
                if self.journal is not None:
                    self.journal.change(entry.serial, entry.kind, 0)

    def _count_collective(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Bytes of a call are those of its larger side: the whole buffer of a gather or scatter."""
        name = func._opname
        if name == NOT_SENT:
            return
        message = message_of(func, args, kwargs)
        self.collective_calls[name] += 1
        self.message_calls[message] += 1
        if name not in BARRIERS:
            size_bytes = max(tensor_bytes(operand) for operand in (*args, out))
            self.collective_bytes[name] += size_bytes
            self.message_bytes[message] += size_bytes

    def _count_copy(self, source: Any, target: Any) -> None:
        """Only what crosses between the tiers."""
        tiers = [self._on_host(tensor) for tensor in (source, target)]
        if tiers[0] != tiers[1]:
            self.copied_bytes["to_host" if tiers[1] else "from_host"] += tensor_bytes(target)

    def _on_host(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor) or hasattr(tensor, "__tensor_flatten__"):
            return False
        if tensor.layout is not torch.strided:
            return False
        entry = self._entries.get(tensor.untyped_storage()._cdata)
        return entry is not None and entry.kind == "host"

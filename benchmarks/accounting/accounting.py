"""Live bytes, FLOPs and messages of one step, counted the same way for every system.

A dispatch mode sees every operator below autograd. It counts storages, not tensors: a view costs
nothing, and a storage is live until its last tensor is gone. It never looks at values or
addresses, so fake tensors are counted like real ones. Not counted: scratch memory inside a kernel,
allocator rounding, operators on the system's own threads.

Kinds come from labels; a storage without label is "temporary". A parameter's gradient becomes
"gradients" when autograd has accumulated it. Storages off the device, and those labelled "host",
are the host tier and no part of the device's sum. A meta tensor holds nothing, unless it is
labelled "host": the host tier of a step on fake tensors.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from baselines.protocol import Kind
from benchmarks.accounting.memory_timeline import Journal
from benchmarks.accounting.operators import (
    COLLECTIVE_NAMESPACES,
    MessageCounts,
    operator_flops,
    tensor_bytes,
)
from benchmarks.accounting.storages import (
    LiveStorage,
    plain,
    resizes_noticed,
    shapes_uncounted,
)
from benchmarks.accounting.visible import visible_tensors

_ACTIVATION_KINDS: tuple[Kind, ...] = ("activations", "kv", "dkv")
_DEVICE = torch.ops.prim.device.default
_COPIES = {"copy_": 1, "_to_copy": 0}
"""Operators that may copy between the tiers, and which argument is the source."""


class Accounting(TorchDispatchMode):
    """Counts while it is entered; knows the live storages from its creation until `close`.

        accounting = Accounting(device)         # labels count from here on
        accounting.adopt("weights", ...)        # then live_bytes
        with accounting:
            system.step(tokens)
        accounting.peak_bytes, accounting.flops, ...
        accounting.close()

    All sizes are bytes of this rank. `peak_by_kind`: each kind's own peak. `at_peak_by_kind`: live
    at the peak of the device's sum. `activation_peak_bytes`: peak of activations, kv and dkv
    together. `flops_in_backward`: the part of `flops` inside backwards, with recomputation.
    `copied_bytes` cross between the tiers. The journal gets every change.

    `held_bytes` returns all bytes of the process. With it, `untracked_peak_bytes` is the peak of
    the bytes outside tracked tensors after an operator, above those on entering. `refused` has
    tracked and untracked bytes at the last operator that ended in an error.
    """

    def __init__(
        self,
        device: torch.device,
        journal: Journal | None = None,
        *,
        held_bytes: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self.journal = journal
        self.untracked_peak_bytes: int | None = None
        self.refused: tuple[int, int] | None = None
        self._held_bytes = held_bytes
        self._untracked_before = 0
        self.device_type = device.type
        self.live: Counter[str] = Counter()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_by_kind: Counter[str] = Counter()
        self.at_peak_by_kind: Counter[str] = Counter()
        self.activation_peak_bytes = 0
        self.flops: Counter[str] = Counter()
        self.flops_in_backward: Counter[str] = Counter()
        self.messages = MessageCounts()
        self.copied_bytes: Counter[str] = Counter()
        self._serials = itertools.count()
        self._entries: dict[int, LiveStorage] = {}
        self._hooks: list[RemovableHandle] = []
        self._patches = ExitStack()
        self._closed = False
        # A storage may die on another thread, or by garbage collection inside our own update.
        self._lock = threading.RLock()

    @property
    def host_peak_bytes(self) -> int:
        """The peak of the host tier."""
        return self.peak_by_kind["host"]

    def label(self, kind: Kind, tensor: Tensor) -> None:
        """The storage of `tensor` has this kind from now on; an unknown storage becomes live."""
        if self._closed:
            return
        for inner in plain(tensor):
            self._touch(inner, kind)

    def adopt(self, kind: Kind, tensors: Iterable[Tensor]) -> None:
        """Label a system's own tensors; the gradients of parameters get their label later."""
        for tensor in tensors:
            self.label(kind, tensor)
            if kind == "weights" and tensor.is_leaf and tensor.requires_grad:
                self._hooks.append(tensor.register_post_accumulate_grad_hook(self._see_gradient))

    def adopt_visible(self) -> None:
        """Count all other tensors that Python sees: buffers that a library made before the step."""
        for tensor in visible_tensors():
            self._see(tensor)

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Never count these tensors: mapped files that belong to no system."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._entries[storage._cdata] = self._entry(None, storage)

    def close(self) -> None:
        """Stop counting: labels, hooks and the ends of storages cost nothing after this."""
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._entries.clear()

    def __enter__(self) -> Accounting:
        self.peak_bytes = self.live_bytes
        self.peak_by_kind = self.live.copy()
        self.at_peak_by_kind = self.live.copy()
        self.activation_peak_bytes = self._activation_bytes()
        if self.journal is not None:
            self.journal.begin()
        if self._held_bytes is not None:
            self._untracked_before = self._held_bytes() - self.live_bytes
            self.untracked_peak_bytes = 0
        self._patches.enter_context(resizes_noticed(self._see_storage))
        self._patches.enter_context(shapes_uncounted())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if types and any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper (DTensor): its inner calls come here
        kwargs = kwargs or {}
        if func.namespace == "prim":
            # The device of a fake tensor: the most frequent call of all.
            return args[0].fake_device if func is _DEVICE else func(*args, **kwargs)
        in_backward = torch._C._current_graph_task_id() >= 0
        if self.journal is not None:
            self.journal.operate(func._opname, in_backward)
        try:
            out = func(*args, **kwargs)
        except (RuntimeError, MemoryError):
            self.refused = self.live_bytes, self._untracked_bytes()
            raise
        self._see(args if out is None else out)
        if self.untracked_peak_bytes is not None:
            self.untracked_peak_bytes = max(self.untracked_peak_bytes, self._untracked_bytes())
        if func.namespace in COLLECTIVE_NAMESPACES:
            self.messages.count(func, args, kwargs, out)
            return out
        if func._opname in _COPIES:
            self._count_copy(args[_COPIES[func._opname]], out)
        for name, count in operator_flops(func, args, kwargs, out):
            self.flops[name] += count
            if in_backward:
                self.flops_in_backward[name] += count
        return out

    def _untracked_bytes(self) -> int:
        """Bytes of the process outside tracked tensors, above those before the step."""
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

    def _see_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.label("gradients", parameter.grad)

    def _see_storage(self, storage: torch.UntypedStorage) -> None:
        """A storage was resized in place, which no operator shows."""
        with self._lock:
            entry = self._entries.get(storage._cdata)
            if entry is not None and entry.kind is not None:
                self._set(entry, entry.kind, storage.nbytes())

    def _touch(self, tensor: Tensor, kind: Kind | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        on_device = tensor.device.type == self.device_type
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                if tensor.device.type == "meta" and kind != "host":
                    return
                kind = (kind or "temporary") if on_device else "host"
                entry = self._entries[key] = self._entry(kind, storage)
                self._set(entry, kind, storage.nbytes())
            elif entry.kind is not None:
                self._set(entry, kind if kind and on_device else entry.kind, storage.nbytes())

    def _entry(self, kind: Kind | None, storage: torch.UntypedStorage) -> LiveStorage:
        reference = weakref.ref(storage, partial(self._drop, storage._cdata))
        return LiveStorage(kind=kind, reference=reference, serial=next(self._serials))

    def _set(self, entry: LiveStorage, kind: Kind, nbytes: int) -> None:
        old = entry.kind
        if old == kind and entry.nbytes == nbytes:
            return
        assert old is not None, "an ignored storage is never set"
        self.live[old] -= entry.nbytes
        self.live[kind] += nbytes
        self.live_bytes = self.live.total() - self.live["host"]
        entry.kind, entry.nbytes = kind, nbytes
        if self.journal is not None:
            self.journal.change(entry.serial, kind, nbytes)
        self._raise_peaks(kind)

    def _raise_peaks(self, kind: Kind) -> None:
        if self.live[kind] > self.peak_by_kind[kind]:
            self.peak_by_kind[kind] = self.live[kind]
        if kind != "host" and self.live_bytes >= self.peak_bytes:
            # Equal bytes too: a label at the peak corrects the bytes by kind.
            self.peak_bytes = self.live_bytes
            self.at_peak_by_kind = self.live.copy()
        if kind in _ACTIVATION_KINDS:
            self.activation_peak_bytes = max(self.activation_peak_bytes, self._activation_bytes())

    def _activation_bytes(self) -> int:
        return sum(self.live[kind] for kind in _ACTIVATION_KINDS)

    def _drop(self, key: int, reference: weakref.ref[Any]) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.reference is not reference:
                return
            del self._entries[key]
            if entry.kind is not None:
                self.live[entry.kind] -= entry.nbytes
                self.live_bytes = self.live.total() - self.live["host"]
                if self.journal is not None:
                    self.journal.change(entry.serial, entry.kind, 0)

    def _count_copy(self, source: Any, target: Any) -> None:
        """Count a copy that crosses between the tiers."""
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

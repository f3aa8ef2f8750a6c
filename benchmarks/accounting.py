"""What one step holds, computes and sends, counted the same way for every system.

A dispatch mode sees every operator below autograd. It counts storages, not tensors: a view costs
nothing, and a storage is live until its last tensor is gone. It never looks at values or
addresses, so fake tensors are counted like real ones. Unseen: scratch memory inside a kernel,
allocator rounding, operators started by a thread of one's own.

Kinds come from labels; what nobody labels is "temporary". A parameter's gradient becomes
"gradients" when autograd has accumulated it. Storages off the device, and those labelled "host",
are the host tier and no part of the device's sum.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from baselines.protocol import Kind
from benchmarks.job import MASKED

_ATTENTION = "_scaled_dot_product_"
_ACTIVATION_KINDS: tuple[Kind, ...] = ("activations", "kv", "dkv")
_COLLECTIVE_NAMESPACES = ("c10d", "_c10d_functional")
_BARRIERS = ("barrier", "monitored_barrier_")


class _Entry:
    """One live storage. `kind` None: known, but not counted."""

    __slots__ = ("kind", "nbytes", "reference")

    def __init__(self, kind: Kind | None, reference: weakref.ref[Any]) -> None:
        self.kind = kind
        self.nbytes = 0
        self.reference = reference


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
    activations, kv and dkv together.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device_type = device.type
        self.live: Counter[str] = Counter()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.peak_by_kind: Counter[str] = Counter()
        self.at_peak_by_kind: Counter[str] = Counter()
        self.activation_peak_bytes = 0
        self.flops: Counter[str] = Counter()
        self.collective_calls: Counter[str] = Counter()
        self.collective_bytes: Counter[str] = Counter()
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
        for inner in _plain(tensor):
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
                for inner in _plain(item):
                    self._touch(inner)

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Never count these: mapped files that belong to no system."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            self._entries[key] = _Entry(None, weakref.ref(storage, partial(self._drop, key)))

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
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = _noticed(self._resize, self._see_storage)  # type: ignore[method-assign]
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
        out = func(*args, **kwargs)
        self._see(args if out is None else out)
        if func.namespace in _COLLECTIVE_NAMESPACES:
            self._count_collective(func._opname, (*args, out))
        else:
            for name, count in operator_flops(func, args, kwargs, out):
                self.flops[name] += count
        return out

    def _see(self, value: Any) -> None:
        if isinstance(value, Tensor):
            for inner in _plain(value):
                self._touch(inner)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self._see(item)

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
                if tensor.device.type != self.device_type:
                    first: Kind = "host"
                else:
                    first = kind or "temporary"
                entry = _Entry(first, weakref.ref(storage, partial(self._drop, key)))
                self._entries[key] = entry
                self._set(entry, first, storage.nbytes())
            elif entry.kind is not None:
                on_device = tensor.device.type == self.device_type
                self._set(entry, kind if kind and on_device else entry.kind, storage.nbytes())

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

    def _count_collective(self, name: str, operands: tuple[Any, ...]) -> None:
        """Bytes of a call are those of its larger side: the whole buffer of a gather or scatter."""
        if name == "wait_tensor":
            return
        self.collective_calls[name] += 1
        if name not in _BARRIERS:
            self.collective_bytes[name] += max(_tensor_bytes(operand) for operand in operands)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with storages behind one: itself, what a wrapper wraps, parts of a sparse one."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    elif tensor.layout is torch.strided:
        yield tensor
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (tuple, list)):
        return sum(_tensor_bytes(item) for item in value)
    return 0


def _noticed(
    resize: Callable[..., Any], notice: Callable[[torch.UntypedStorage], None]
) -> Callable[..., Any]:
    def resize_(storage: torch.UntypedStorage, *size: Any) -> Any:
        result = resize(storage, *size)
        notice(storage)
        return result

    return resize_


def operator_flops(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> list[tuple[str, int]]:
    """(name, FLOPs) of the matrix products of one call; empty for all other operators."""
    if func._opname.startswith(_ATTENTION):
        return _attention_flops(func, args, kwargs)
    formula = _formula(func)
    if formula is None:
        return []
    return [(str(func._overloadpacket), int(formula(*args, **kwargs, out_val=out)))]


def causal_pairs(queries: int, keys: int) -> int:
    """Query-key pairs under torch's `is_causal`: query i sees keys 0..i."""
    square = min(queries, keys)
    return square * (square + 1) // 2 + max(0, queries - keys) * keys


@cache
def _formula(func: Any) -> Callable[..., int] | None:
    """torch's own, which it lists for `addmm` but not for the same thing in place, `addmm_`."""
    packet = func._overloadpacket
    if packet not in flop_registry and func._opname.endswith("_"):
        namespace = getattr(torch.ops, func.namespace)
        packet = getattr(namespace, func._opname.rstrip("_"), packet)
    return flop_registry.get(packet)


@cache
def _positions(func: Any) -> dict[str, int]:
    return {argument.name: index for index, argument in enumerate(func._schema.arguments)}


def _attention_flops(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, int]]:
    """Two products forward (QK', PV); five backward, the first recomputed.

    torch's own formulas know neither the CPU operator nor grouped heads.
    """
    positions = _positions(func)

    def argument(name: str, default: Any = None) -> Any:
        index = positions.get(name, len(args))
        return args[index] if index < len(args) else kwargs.get(name, default)

    batch, heads, queries, width = argument("query").shape
    keys, value_width = argument("value").shape[-2:]
    if func._opname.endswith("_backward"):
        pair_flops = 2 * batch * heads * (3 * width + 2 * value_width)
    else:
        pair_flops = 2 * batch * heads * (width + value_width)
    name = str(func._overloadpacket)
    pairs = queries * keys
    if not argument("is_causal", False):
        return [(name, pair_flops * pairs)]
    kept = causal_pairs(queries, keys)
    return [(name, pair_flops * kept), (name + MASKED, pair_flops * (pairs - kept))]

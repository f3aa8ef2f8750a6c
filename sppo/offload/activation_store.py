"""Two-level activation management: each saved tensor is kept, offloaded, or recomputed.

The model tags tensors with the names of saved tensors. Saved-tensor hooks see every tensor that
autograd saves. Storages are counted, not tensors: a tensor saved twice is kept once, a view keeps
its whole storage, and weights are recognised by their storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sppo.offload.host_memory import CopyEvent, HostArena
from sppo.plan.saved_tensors import SavedTensorKey


def storage_key(tensor: Tensor) -> int:
    """Identity of a tensor's storage while it lives (works for fake tensors, unlike data_ptr)."""
    key: int = tensor.untyped_storage()._cdata
    return key


def _bytes_of(tensor: Tensor) -> Tensor:
    """The whole storage of `tensor` as uint8 [bytes].

    By views alone: `set_` on a storage never frees it where tensors are fake (torch 2.13).
    """
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((elements,), (1,), 0).view(torch.uint8)


class Recomputer(Protocol):
    """Recomputes saved tensors; see `recompute.BlockRecomputer`."""

    def recomputed_from(self, name: str) -> tuple[str, ...]:
        """Names of the saved tensors of the same block that this one is recomputed from."""

    def recompute(self, layer: int, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """The saved tensor as the forward computed it, contiguous."""


@dataclass(frozen=True)
class _View:
    """The layout of a tensor in its storage."""

    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> _View:
        return cls(tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def on(self, data: Tensor) -> Tensor:
        """The same view of the storage of `data`."""
        return data.view(self.dtype).as_strided(self.size, self.stride, self.offset)


@dataclass(kw_only=True)
class Saved:
    """One saved storage: on the device (`data`), in the host tier (`slot`), or in neither.

    A storage in neither place was dropped. It is recomputed from `sources`, saved tensors by name.
    """

    key: SavedTensorKey | None
    data: Tensor | None
    size_bytes: int
    view: _View
    slot: slice | None = None
    sources: dict[str, Saved] = field(default_factory=dict)


class ActivationStore:
    """The saved tensors of one subsequence on one stage.

    `constants` are storages that outlive the step (weights, RoPE tables) and pass through.
    `label` tells the accounting that a storage now holds a saved tensor. Saved tensors in `dropped`
    are not kept: `recomputer` recomputes them when the backward first reads them.
    """

    def __init__(
        self,
        constants: frozenset[int],
        label: Callable[[Any, Tensor], None],
        dropped: frozenset[SavedTensorKey],
        recomputer: Recomputer,
    ) -> None:
        self._constants = constants
        self._label = label
        self._dropped = dropped
        self._recomputer = recomputer
        self._by_key: dict[SavedTensorKey, Saved] = {}
        self._mortal: list[StorageWeakRef] = []
        self._tags: dict[int, SavedTensorKey] = {}
        self._open: dict[int, Saved] = {}
        self._reloads = CopyEvent(None)
        self.saved: list[Saved] = []

    def tag(self, layer: int, name: str, tensor: Tensor) -> None:
        """Name the storage of `tensor`; the first name stays."""
        self._tags.setdefault(storage_key(tensor), (layer, name))
        if (layer, name) in self._dropped:
            # A dropped storage dies before the forward ends. While a weak reference to it lives,
            # no new storage gets its identity.
            self._mortal.append(StorageWeakRef(tensor.untyped_storage()))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context of one forward: this store handles every tensor that autograd saves inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield
        self._tags.clear()
        self._open.clear()
        self._by_key.clear()
        self._mortal.clear()

    def _pack(self, tensor: Tensor) -> Tensor | tuple[Saved, _View]:
        """Autograd holds the result in place of a saved tensor."""
        storage = storage_key(tensor)
        if storage in self._constants:
            return tensor
        saved = self._open.get(storage)
        if saved is None:
            saved = self._save(tensor, self._tags.get(storage))
            self._open[storage] = saved
        return saved, _View.of(tensor)

    def _save(self, tensor: Tensor, key: SavedTensorKey | None) -> Saved:
        data = _bytes_of(tensor)
        saved = Saved(key=key, data=data, size_bytes=data.numel(), view=_View.of(tensor))
        if key is not None:
            self._by_key[key] = saved
            if key in self._dropped:
                sources = self._recomputer.recomputed_from(key[1])
                saved.sources = {name: self._by_key[key[0], name] for name in sources}
                saved.data = None
                return saved
        self.saved.append(saved)
        self._label("activations", tensor)
        return saved

    def _data(self, saved: Saved) -> Tensor:
        """The bytes of a saved storage; a dropped one is recomputed now, once."""
        if saved.data is None:
            assert saved.sources, f"{saved.key} is read while it lies in the host tier"
            assert saved.key is not None
            layer, unit = saved.key

            def read(name: str) -> Tensor:
                source = saved.sources[name]
                return source.view.on(self._data(source))

            data = _bytes_of(self._recomputer.recompute(layer, unit, read))
            assert data.numel() == saved.size_bytes, f"{unit} was recomputed with another size"
            saved.data = data
            saved.sources = {}
        return saved.data

    def _unpack(self, packed: Tensor | tuple[Saved, _View]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        saved, view = packed
        return view.on(self._data(saved))

    def offload(self, names: Iterable[SavedTensorKey], arena: HostArena) -> int:
        """Copy these saved tensors to the host tier and free their storages; returns the bytes."""
        offloaded = set(names)
        moved = 0
        for saved in self.saved:
            if saved.key in offloaded and saved.data is not None:
                saved.slot = arena.store(saved.data)
                saved.data = None
                moved += saved.size_bytes
        return moved

    def reload(self, device: torch.device, arena: HostArena) -> int:
        """Queue the copies back to the device, in reverse order; returns the bytes."""
        moved = 0
        for saved in reversed(self.saved):
            if saved.slot is None:
                continue
            data = torch.empty(saved.size_bytes, dtype=torch.uint8, device=device)
            arena.load(saved.slot, data)
            saved.data = data
            saved.slot = None
            self._label("activations", data)
            moved += saved.size_bytes
        self._reloads = arena.copies.h2d_event()
        return moved

    def release(self) -> None:
        """Begin of the backward: only the graph refers to the storages, and frees them as it runs.

        On CUDA the compute stream waits for the reloads of this store, and for nothing else.
        """
        self._reloads.wait()
        assert all(saved.slot is None for saved in self.saved), "a saved tensor was not reloaded"
        self.saved.clear()

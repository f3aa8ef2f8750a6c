"""Two-level activation management: which saved tensor stays, travels, or is made again.

The model tags tensors by unit name; saved-tensor hooks meet every tensor that autograd keeps. The
storage is the unit of account: a tensor saved twice is kept once, a view keeps its whole storage,
and weights are told apart by their storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from sppo.offload.host_memory import Arrival, HostArena, Slot
from sppo.plan.saved_tensors import SavedTensorKey


def storage_key(tensor: Tensor) -> int:
    """Identity of a tensor's storage while it lives (works for fake tensors, unlike data_ptr)."""
    key: int = tensor.untyped_storage()._cdata
    return key


def _bytes_of(tensor: Tensor) -> Tensor:
    """The whole storage of `tensor` as uint8 [bytes].

    By views alone: `set_` on a storage never lets go of it where tensors are fake (torch 2.13).
    """
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((elements,), (1,), 0).view(torch.uint8)


class Recomputer(Protocol):
    """Makes dropped units again; see `recompute.BlockRecomputer`."""

    def recomputed_from(self, unit: str) -> tuple[str, ...]:
        """Names of the units of the same block that `unit` is made of."""
        ...

    def make(self, layer: int, unit: str, read: Callable[[str], Tensor]) -> Tensor:
        """The unit as the forward had made it, contiguous."""
        ...


@dataclass(frozen=True)
class _View:
    """How a tensor lies in its storage."""

    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> _View:
        return cls(tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def on(self, data: Tensor) -> Tensor:
        """The tensor again, over the storage of `data`."""
        return data.view(self.dtype).as_strided(self.size, self.stride, self.offset)


@dataclass(kw_only=True)
class Saved:
    """One saved storage: on the device (`data`), in the host tier (`slot`), or in neither.

    A storage in neither place was dropped: `sources` are what it will be made of, by unit name.
    """

    key: SavedTensorKey | None
    data: Tensor | None
    size_bytes: int
    view: _View
    slot: Slot | None = None
    sources: dict[str, Saved] = field(default_factory=dict)


@dataclass(frozen=True)
class _Handle:
    """What autograd holds in place of a saved tensor."""

    saved: Saved
    view: _View


class ActivationStore:
    """The saved tensors of one subsequence on one stage.

    `constants` are storages that outlive the step (weights, RoPE tables) and pass through.
    `label` tells the accounting that a storage is now a kept activation. Units in `dropped` are not
    kept at all: `maker` makes them again when the backward asks for the first time.
    """

    def __init__(
        self,
        constants: frozenset[int],
        label: Callable[[Any, Tensor], None],
        *,
        dropped: frozenset[SavedTensorKey] = frozenset(),
        recomputer: Recomputer | None = None,
    ) -> None:
        self._constants = constants
        self._label = label
        self._dropped = dropped
        self._recomputer = recomputer
        self._by_key: dict[SavedTensorKey, Saved] = {}
        self._mortal: list[StorageWeakRef] = []
        self._tags: dict[int, SavedTensorKey] = {}
        self._open: dict[int, Saved] = {}
        self._arriving = Arrival(None)
        self.saved: list[Saved] = []

    def tag(self, layer: int, unit: str, tensor: Tensor) -> None:
        """Name the storage of `tensor`; the first name stays."""
        self._tags.setdefault(storage_key(tensor), (layer, unit))
        if (layer, unit) in self._dropped:
            # A dropped storage dies before the forward ends. While a weak reference lives its
            # identity is not given to another.
            self._mortal.append(StorageWeakRef(tensor.untyped_storage()))

    def recording(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Context of one forward: everything autograd saves inside goes through this store."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def close(self) -> None:
        """End of the forward: names are dropped, the saved storages stay."""
        self._tags.clear()
        self._open.clear()
        self._by_key.clear()
        self._mortal.clear()

    def _pack(self, tensor: Tensor) -> Tensor | _Handle:
        storage = storage_key(tensor)
        if storage in self._constants:
            return tensor
        saved = self._open.get(storage)
        if saved is None:
            saved = self._save(tensor, self._tags.get(storage))
            self._open[storage] = saved
        return _Handle(saved, _View.of(tensor))

    def _save(self, tensor: Tensor, key: SavedTensorKey | None) -> Saved:
        data = _bytes_of(tensor)
        saved = Saved(key=key, data=data, size_bytes=data.numel(), view=_View.of(tensor))
        if key is not None:
            self._by_key[key] = saved
            if key in self._dropped:
                assert self._recomputer is not None
                layer, unit = key
                sources = self._recomputer.recomputed_from(unit)
                saved.sources = {name: self._by_key[layer, name] for name in sources}
                saved.data = None
                return saved
        self.saved.append(saved)
        self._label("activations", tensor)
        return saved

    def _data(self, saved: Saved) -> Tensor:
        """The bytes of a saved storage; a dropped one is made again now, once."""
        if saved.data is None:
            assert saved.sources, f"{saved.key} is read while it lies in the host tier"
            assert saved.key is not None
            assert self._recomputer is not None
            layer, unit = saved.key

            def read(name: str) -> Tensor:
                source = saved.sources[name]
                return source.view.on(self._data(source))

            made = _bytes_of(self._recomputer.make(layer, unit, read))
            assert made.numel() == saved.size_bytes, f"{unit} was made with another size"
            saved.data = made
            saved.sources = {}
        return saved.data

    def _unpack(self, packed: Tensor | _Handle) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed.view.on(self._data(packed.saved))

    @property
    def device_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.saved if entry.data is not None)

    def bytes_by_unit(self) -> dict[SavedTensorKey | None, int]:
        """Bytes kept under each unit name (None: a tensor the model did not tag)."""
        totals: dict[SavedTensorKey | None, int] = {}
        for entry in self.saved:
            totals[entry.key] = totals.get(entry.key, 0) + entry.size_bytes
        return totals

    def offload(self, units: Iterable[SavedTensorKey], arena: HostArena) -> int:
        """Send those units to the host tier and free their device storage; returns bytes moved."""
        wanted = set(units)
        moved = 0
        for entry in self.saved:
            if entry.key in wanted and entry.data is not None:
                entry.slot = arena.store(entry.data)
                entry.data = None
                moved += entry.size_bytes
        return moved

    def fetch(self, device: torch.device, arena: HostArena) -> int:
        """Bring everything back to the device, last out first in; returns bytes moved."""
        moved = 0
        for entry in reversed(self.saved):
            if entry.slot is None:
                continue
            data = torch.empty(entry.size_bytes, dtype=torch.uint8, device=device)
            arena.load(entry.slot, data)
            entry.data = data
            entry.slot = None
            self._label("activations", data)
            moved += entry.size_bytes
        self._arriving = arena.arrived()
        return moved

    def release(self) -> None:
        """Begin of the backward: the graph alone keeps the storages, and lets go as it runs.

        On CUDA the compute stream waits for what this store has fetched, and for nothing else.
        """
        self._arriving.wait()
        assert all(entry.slot is None for entry in self.saved), "a unit was never fetched"
        self.saved.clear()

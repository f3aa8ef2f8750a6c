"""Two-level activation management: which saved tensor stays on the device and which travels.

The model tags tensors by unit name; saved-tensor hooks meet every tensor that autograd keeps. The
storage is the unit of account: a tensor saved twice is kept once, a view keeps its whole storage,
and weights are told apart by their storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppo.hostmem import HostArena, Slot
from sppo.plan import UnitKey


def storage_key(tensor: Tensor) -> int:
    """Identity of a tensor's storage while it lives (works for fake tensors, unlike data_ptr)."""
    key: int = tensor.untyped_storage()._cdata
    return key


def _bytes_of(tensor: Tensor) -> Tensor:
    """The whole storage of `tensor` as uint8 [bytes]."""
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return flat.set_(tensor.untyped_storage())


@dataclass(kw_only=True)
class Saved:
    """One kept storage: on the device (`data`), in the host tier (`slot`), or already freed."""

    key: UnitKey | None
    data: Tensor | None
    size_bytes: int
    slot: Slot | None = None


@dataclass(frozen=True)
class _Handle:
    """What autograd holds in place of a saved tensor."""

    saved: Saved
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class ActivationStore:
    """The saved tensors of one subsequence on one stage.

    `constants` are storages that outlive the step (weights, RoPE tables) and pass through.
    `label` tells the accounting that a storage is now a kept activation.
    """

    def __init__(self, constants: frozenset[int], label: Callable[[Any, Tensor], None]) -> None:
        self._constants = constants
        self._label = label
        self._tags: dict[int, UnitKey] = {}
        self._open: dict[int, Saved] = {}
        self._arriving: list[torch.cuda.Event] = []
        self.saved: list[Saved] = []

    def tag(self, layer: int, unit: str, tensor: Tensor) -> None:
        """Name the storage of `tensor`; the first name stays."""
        self._tags.setdefault(storage_key(tensor), (layer, unit))

    def recording(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Context of one forward: everything autograd saves inside goes through this store."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def close(self) -> None:
        """End of the forward: names are dropped, the saved storages stay."""
        self._tags.clear()
        self._open.clear()

    def _pack(self, tensor: Tensor) -> Tensor | _Handle:
        key = storage_key(tensor)
        if key in self._constants:
            return tensor
        saved = self._open.get(key)
        if saved is None:
            data = _bytes_of(tensor)
            saved = Saved(key=self._tags.get(key), data=data, size_bytes=data.numel())
            self._open[key] = saved
            self.saved.append(saved)
            self._label("activations", tensor)
        offset = int(tensor.storage_offset())
        return _Handle(saved, tensor.dtype, tensor.size(), tensor.stride(), offset)

    @staticmethod
    def _unpack(packed: Tensor | _Handle) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        data = packed.saved.data
        assert data is not None, f"{packed.saved.key} is read while it lies in the host tier"
        typed = torch.empty(0, dtype=packed.dtype, device=data.device)
        typed.set_(data.untyped_storage(), packed.offset, packed.size, packed.stride)
        return typed

    @property
    def device_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.saved if entry.data is not None)

    def bytes_by_unit(self) -> dict[UnitKey | None, int]:
        """Bytes kept under each unit name (None: a tensor the model did not tag)."""
        totals: dict[UnitKey | None, int] = {}
        for entry in self.saved:
            totals[entry.key] = totals.get(entry.key, 0) + entry.size_bytes
        return totals

    def offload(self, units: Iterable[UnitKey], arena: HostArena) -> int:
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
            arrived = arena.load(entry.slot, data)
            if arrived is not None:
                self._arriving.append(arrived)
            entry.data = data
            entry.slot = None
            self._label("activations", data)
            moved += entry.size_bytes
        return moved

    def release(self) -> None:
        """Begin of the backward: the graph alone keeps the storages, and lets go as it runs.

        On CUDA the compute stream waits for what this store has fetched, and for nothing else.
        """
        for arrived in self._arriving:
            arrived.wait()
        self._arriving.clear()
        assert all(entry.slot is None for entry in self.saved), "a unit was never fetched"
        self.saved.clear()

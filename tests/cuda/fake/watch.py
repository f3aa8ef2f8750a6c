"""Sees every operator of one rank: who reads and writes what, on which stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda.fake.courier import Courier, poison
from tests.cuda.fake.memory import DeviceMemory

_ALIASES = frozenset(("_unsafe_view", "alias", "detach", "lift_fresh", "set_", "_reshape_alias"))
_UNWRITTEN = ("empty", "new_empty")
_COPY = torch.ops.aten.copy_.default
_READ = torch.ops.aten._local_scalar_dense.default


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class Watch(TorchDispatchMode):
    """Tells `memory` of every access. With a courier, copies of side streams come late."""

    def __init__(self, memory: DeviceMemory, courier: Courier | None = None) -> None:
        super().__init__()
        self.memory = memory
        self.courier = courier
        self.operators = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._opname
        if func.namespace == "prim" or func.is_view or name in _ALIASES:
            return func(*args, **kwargs)
        gpu = self.memory.gpu
        self.operators += 1
        gpu.issue(gpu.current_stream)
        inputs, ordered = self._inputs(func, args, kwargs)
        if self.courier is not None and func is _COPY and gpu.current_stream is not gpu.main:
            self.courier.copy(args[0], args[1], ordered=ordered)
            return args[0]
        out = func(*args, **kwargs)
        unwritten = name.startswith(_UNWRITTEN)
        for tensor in _tensors(out):
            if unwritten:
                self.memory.born(tensor)
                if self.courier is not None and tensor.is_contiguous():
                    poison(tensor)
            elif tensor.untyped_storage()._cdata not in inputs:
                self.memory.access(tensor, writes=True, operator=name)
        if func is _READ:
            gpu.host_waits(gpu.current_stream.clock)
        return out

    def _inputs(self, func: Any, args: Any, kwargs: Any) -> tuple[set[int], bool]:
        """Storages of the inputs, and whether all their accesses are ordered."""
        storages, ordered = set(), True
        for index, argument in enumerate(func._schema.arguments):
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            if value is None or isinstance(value, (int, float, bool, str)):
                continue
            alias = argument.alias_info
            writes = alias is not None and alias.is_write
            for tensor in _tensors(value):
                storages.add(tensor.untyped_storage()._cdata)
                if not self.memory.access(tensor, writes=writes, operator=func._opname):
                    ordered = False
        return storages, ordered

"""One rank of any world, alone and without memory: torch's fake tensors and process group.

Tensors have shapes, types and storages of a size, but no contents; collectives end at once. So
nothing may depend on a value. The few scalars that training code reads have fixed answers: 1 for a
number (a loss; a gradient norm, which with the libraries' epsilon is just clipped), False for a
truth (no overflow). torch itself remembers the value of a tensor that was made of a constant.

The fake device is a CPU. For a GPU, a layer norm's mean and 1 / sigma are float32, as CUDA keeps
them for bfloat16 (a CPU rounds them). These statistics are the only difference in bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
    unset_fake_temporarily,
)
from torch.distributed._functional_collectives import AsyncCollectiveTensor, _are_we_tracing
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from sppo.config.workload import Cluster

DEVICE = torch.device("cpu")
"""Fake CUDA tensors need a build of torch with CUDA; sizes are the same."""

_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_LAYER_NORM = _ATEN.native_layer_norm.default
_WAIT = torch.ops._c10d_functional.wait_tensor.default
_WRAP = torch.ops._c10d_functional._wrap_tensor_autograd.default
_READ = _ATEN._local_scalar_dense.default
_SET_STORAGE = _ATEN.set_.source_Storage

SHORT = frozenset(
    (
        _ATEN._unsafe_view.default,
        _ATEN.as_strided.default,
        _ATEN.cat.default,
        _ATEN.detach.default,
        _ATEN.expand.default,
        _ATEN.permute.default,
        _ATEN.select.int,
        _ATEN.slice.Tensor,
        _ATEN.split.Tensor,
        _ATEN.split_with_sizes.default,
        _ATEN.squeeze.dim,
        _ATEN.stack.default,
        _ATEN.t.default,
        _ATEN.transpose.int,
        _ATEN.unsqueeze.default,
        _ATEN.view.default,
        _ATEN.view.dtype,
    )
)
"""Views and joins of tensors; all other operators take torch's path."""


@contextmanager
def rank_of(rank: int, cluster: Cluster) -> Iterator[None]:
    """Inside, this process is that rank of that cluster, and every new tensor is fake.

    Its environment is set before torch is imported (`benchmarks.emulation.processes`).
    """
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=cluster.ranks)
    try:
        answers = patch.dict(fake_impls.op_implementations_dict, {_READ: _answer})
        mode = ShortcutMode(like_cuda=cluster.device == "cuda", allow_non_fake_inputs=True)
        with answers, _real_tables_of_ranks(), _not_tracing(), mode:
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _not_tracing() -> Iterator[None]:
    """Inside, torch's collectives and DTensors do what they do on real tensors.

    On fake tensors torch takes for granted that a compiler records what it does: then it waits for
    each message at once. Its modules have the function itself, so the function's code is replaced.
    """
    code = _are_we_tracing.__code__
    _are_we_tracing.__code__ = (lambda: False).__code__
    try:
        yield
    finally:
        _are_we_tracing.__code__ = code


def _real_tables_of_ranks() -> Any:
    """Inside, a new DeviceMesh computes its table of ranks on real tensors, which it reads."""
    initialise = DeviceMesh.__init__

    @wraps(initialise)
    def on_real_tensors(*args: Any, **kwargs: Any) -> None:
        with unset_fake_temporarily():
            initialise(*args, **kwargs)

    return patch.object(DeviceMesh, "__init__", on_real_tensors)


def _answer(mode: FakeTensorMode, func: Any, tensor: FakeTensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return False
    return 1.0 if tensor.dtype.is_floating_point else 0


def host_memory(size_bytes: int, device: torch.device) -> torch.Tensor:
    """A fake host tier of `size_bytes`."""
    return torch.empty(size_bytes, dtype=torch.uint8, device=device)


def constants() -> list[torch.Tensor]:
    """The real tensors that torch keeps behind fake ones made of numbers; no system owns them."""
    fakes = [item for item in gc.get_objects() if type(item) is FakeTensor]
    return [tensor.constant for tensor in fakes if tensor.constant is not None]


def _storage_key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class ShortcutMode(FakeTensorMode):
    """Makes the same fake tensors as torch, with a short path for the most frequent operators.

    torch looks every operator up by a hash of all its arguments, and computes some shapes in
    Python. The shape of a view needs neither: the operator itself gives it for meta tensors.
    """

    def __init__(self, *, like_cuda: bool, allow_non_fake_inputs: bool = False) -> None:
        super().__init__(allow_non_fake_inputs=allow_non_fake_inputs)
        self.like_cuda = like_cuda
        self.in_flight: dict[int, Any] = {}

    def __torch_dispatch__(  # type: ignore[override]
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:
            return args[0].fake_device
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # a wrapper (DTensor): its inner calls come here
        if func is _WAIT:
            self.in_flight.pop(_storage_key(args[0]), None)
            return args[0]  # torch's own shape function makes a second tensor
        if func is _WRAP:
            return AsyncCollectiveTensor(args[0])  # so here
        if func is _SET_STORAGE:
            with in_kernel_invocation_manager(self):  # torch's cache would hold the storage
                return func(*args, **kwargs)
        device = self._shared_device(args[0]) if func in SHORT else None
        if device is None:
            out: Any = super().__torch_dispatch__(func, types, args, kwargs)
            if func is _LAYER_NORM and self.like_cuda:
                return (out[0], *(self._float32(statistic) for statistic in out[1:]))
            if func.namespace == "_c10d_functional" and isinstance(out, FakeTensor):
                # A real message holds what it sends until somebody waits for it.
                self.in_flight[_storage_key(out)] = args[0]
            return out
        with in_kernel_invocation_manager(self):
            out = func(*args, **kwargs)
        if isinstance(out, torch.Tensor):
            return FakeTensor(self, out, device)
        return [FakeTensor(self, piece, device) for piece in out]

    def _shared_device(self, sources: Any) -> torch.device | None:
        """The device of all sources; None where one is real, or torch remembers its value."""
        tensors = sources if isinstance(sources, (list, tuple)) else (sources,)
        device: torch.device | None = getattr(tensors[0], "fake_device", None) if tensors else None
        plain = all(
            type(tensor) is FakeTensor
            and tensor.fake_mode is self
            and tensor.constant is None
            and tensor.fake_device == device
            for tensor in tensors
        )
        return device if plain else None

    def _float32(self, statistic: FakeTensor) -> FakeTensor:
        if statistic.dtype not in (torch.bfloat16, torch.float16):
            return statistic
        wider = torch.empty(statistic.shape, dtype=torch.float32, device="meta")
        return FakeTensor(self, wider, statistic.fake_device)

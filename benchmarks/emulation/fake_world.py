"""One rank of any world without the others and without memory: torch's fake tensors and group.

Tensors have shapes, types and storages of a size, but no contents; collectives are done at once.
So nothing may depend on a value. The few scalars that training code reads are answered: a number
by 1 (a loss; a gradient norm, which with the libraries' epsilon is just clipped), a truth by False
(no overflow). What was made of a constant torch itself reads as that constant.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.emulation.fast_fake_tensors import ShortcutMode
from sppo.config.workload import Cluster

DEVICE = torch.device("cpu")
"""Fake CUDA tensors need a build of torch that knows CUDA; sizes are the same."""

_READ = torch.ops.aten._local_scalar_dense.default


@contextmanager
def rank_of(rank: int, cluster: Cluster) -> Iterator[None]:
    """Inside, this process is that rank of that cluster, and every new tensor is fake.

    Its environment is set before torch is imported (`benchmarks.emulation.fake_cluster`).
    """
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=cluster.ranks)
    try:
        like_cuda = cluster.device == "cuda"
        fake = ShortcutMode(like_cuda=like_cuda, allow_non_fake_inputs=True)
        with _answered_scalars(), fake:
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _answered_scalars() -> Iterator[None]:
    table: dict[Any, Any] = fake_impls.op_implementations_dict
    before = table[_READ]
    table[_READ] = _answer
    try:
        yield
    finally:
        table[_READ] = before


def _answer(mode: FakeTensorMode, func: Any, tensor: FakeTensor) -> bool | int | float:
    if tensor.dtype == torch.bool:
        return False
    return 1.0 if tensor.dtype.is_floating_point else 0


def weights(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Fake tensors in the place of the mapped weights."""
    return {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}


def host_memory(size_bytes: int, device: torch.device) -> torch.Tensor:
    """The host tier of a rank that has none."""
    return torch.empty(size_bytes, dtype=torch.uint8, device=device)


def constants() -> list[torch.Tensor]:
    """The real tensors that torch remembers behind fake ones made of numbers: nobody's memory."""
    found = [item for item in gc.get_objects() if type(item) is FakeTensor]
    return [tensor.constant for tensor in found if tensor.constant is not None]

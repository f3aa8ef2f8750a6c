"""Shapes by the short way are those that torch gives, of fake tensors and of real ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.accounting.storages import plain
from benchmarks.emulation.fake_world import SHORT, ShortcutMode

CALLS: dict[str, Callable[[Tensor], Tensor | Sequence[Tensor]]] = {
    "_unsafe_view": lambda x: torch.ops.aten._unsafe_view(x, [12, 8]),
    "as_strided": lambda x: x.as_strided((3, 2), (8, 2), 5),
    "cat": lambda x: torch.cat((x, x[2:], x[:0]), dim=0),
    "detach": lambda x: x.detach(),
    "expand": lambda x: x[None].expand(5, -1, -1, -1),
    "permute": lambda x: x.permute(2, 0, 1),
    "select": lambda x: x.select(1, 2),
    "slice": lambda x: x[1:9:2, :, -3:],
    "split": lambda x: x.transpose(0, 1).split(2),
    "split_with_sizes": lambda x: x.split((1, 3, 2), dim=1),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "stack": lambda x: torch.stack((x, x + x), dim=-1),
    "t": lambda x: x[0].t(),
    "transpose": lambda x: x.transpose(0, 2),
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "view": lambda x: x.view(-1, 4, 2),
    "view_as_dtype": lambda x: x.view(torch.uint8),
}


class Seen(TorchDispatchMode):
    """The operators that came by."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[object] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operators.add(func)
        return func(*args, **(kwargs or {}))


def shapes_of(made: Tensor | Sequence[Tensor], source: Tensor) -> list[tuple[object, ...]]:
    """All that an accounting sees of tensors."""
    tensors = [made] if isinstance(made, Tensor) else made
    storage = source.untyped_storage()._cdata
    return [
        (
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.dtype,
            tensor.device.type,
            tensor.requires_grad,
            tensor.untyped_storage().nbytes(),
            tensor.untyped_storage()._cdata == storage,
        )
        for tensor in tensors
    ]


def call(name: str, *, grad: bool) -> list[tuple[object, ...]]:
    source = torch.empty(4, 6, 4, dtype=torch.bfloat16, requires_grad=grad)
    return shapes_of(CALLS[name](source), source)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_as_torch_shapes_them(name: str, grad: bool) -> None:
    real = call(name, grad=grad)
    with FakeTensorMode():
        fake = call(name, grad=grad)
    with ShortcutMode(like_cuda=False):
        short = call(name, grad=grad)
    assert short == fake == real


def test_every_short_way_is_tried_here() -> None:
    seen = Seen()
    with ShortcutMode(like_cuda=False), seen, torch.no_grad():
        for name in CALLS:
            call(name, grad=False)
    assert seen.operators >= SHORT


def test_what_is_known_of_a_number_stays_known() -> None:
    with ShortcutMode(like_cuda=False):
        number = torch.tensor(3.0)
        assert isinstance(number, FakeTensor)
        assert number.unsqueeze(0).squeeze(0).detach().item() == 3.0


def test_an_error_of_shapes_is_torch_s_own() -> None:
    with (
        ShortcutMode(like_cuda=False),
        pytest.raises(RuntimeError, match="shape '\\[5, 5\\]' is invalid"),
    ):
        torch.empty(24).view(5, 5)


@pytest.mark.parametrize(("like_cuda", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_statistics_of_a_layer_norm(like_cuda: bool, dtype: torch.dtype) -> None:
    with ShortcutMode(like_cuda=like_cuda):
        x = torch.empty(6, 4, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(4, dtype=torch.bfloat16)
        out, mean, rstd = torch.native_layer_norm(x, [4], weight, weight, 1e-5)
        out.sum().backward()
    assert (out.dtype, mean.dtype, rstd.dtype) == (torch.bfloat16, dtype, dtype)
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_a_message_that_has_arrived_is_no_second_tensor() -> None:
    with ShortcutMode(like_cuda=False):
        received = torch.empty(24)
        arrived = torch.ops._c10d_functional.wait_tensor(received)
    assert arrived.untyped_storage()._cdata == received.untyped_storage()._cdata


def test_a_copied_storage_goes_with_its_tensor() -> None:
    """Megatron recomputes norms so. torch's cache of shapes would hold both storages."""
    with ShortcutMode(like_cuda=False, allow_non_fake_inputs=True):
        source, target = torch.empty(8), torch.empty(8)
        storages = [weakref.ref(tensor.untyped_storage()) for tensor in (source, target)]
        with torch.no_grad():
            target.untyped_storage().copy_(source.untyped_storage())
        assert target.untyped_storage().nbytes() == 32
        del source, target
    assert [storage() for storage in storages] == [None, None]


def test_a_shard_is_counted_by_its_local_tensor() -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with ShortcutMode(like_cuda=True):
            with unset_fake_temporarily():
                mesh = DeviceMesh("cpu", [0, 1])
            local = torch.empty(6, 4, dtype=torch.bfloat16)
            shard = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
            sums = shard + shard
        assert list(plain(shard)) == [shard._local_tensor]
        assert [tensor.shape for tensor in plain(sums)] == [local.shape]
    finally:
        dist.destroy_process_group()

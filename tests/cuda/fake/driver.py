"""What torch.cuda answers without a driver, so that libraries take their CUDA branches.

For fake tensors alone. Two patches keep them fake beside a device that seems to be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tests.cuda.fake.streams import DEVICE_BYTES

H100 = SimpleNamespace(
    name="fake", total_memory=DEVICE_BYTES, major=9, minor=0, multi_processor_count=132
)


def _nothing() -> Any:
    """For a call that only changes the device. torch's compiler knows functions by identity."""
    return lambda *args, **kwargs: None


def _random_state() -> Any:
    return lambda device=None: torch.empty(16, dtype=torch.uint8, device="cpu")


ANSWERS: dict[str, Any] = {
    "_lazy_init": _nothing(),
    "current_device": lambda: 0,
    "device_count": lambda: 1,
    "empty_cache": _nothing(),
    "get_device_capability": lambda device=None: (H100.major, H100.minor),
    "get_device_properties": lambda device=None: H100,
    "get_rng_state": _random_state(),
    "is_available": lambda: True,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "manual_seed": _nothing(),
    "manual_seed_all": _nothing(),
    "max_memory_allocated": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": _nothing(),
    "set_device": _nothing(),
    "set_rng_state": _nothing(),
}
"""Functions of torch.cuda that the peers call, by name."""

_data: Any = torch._C.TensorBase.data


def _set_data(tensor: FakeTensor, data: torch.Tensor) -> None:
    """ZeRO-3 moves parameters so; a fake tensor would keep the name of its old device."""
    _data.__set__(tensor, data)
    if isinstance(data, FakeTensor):
        tensor.fake_device = data.fake_device


@dataclass(kw_only=True)
class Pinned:
    """Bytes of host memory that were copied to locked pages."""

    size_bytes: int = 0

    def pin_memory(self, tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
        """torch has no shape function for the operator."""
        assert tensor.device.type == "cpu"
        self.size_bytes += tensor.nbytes
        return tensor.clone()


@contextmanager
def answered() -> Iterator[Pinned]:
    """Inside, torch.cuda has one H100. Streams and events are not in it (`streams`)."""
    pinned = Pinned()
    with ExitStack() as patches:
        patches.enter_context(patch.multiple(torch.cuda, **ANSWERS))
        patches.enter_context(patch.object(torch.cuda.random, "get_rng_state", _random_state()))
        nvtx = {"range_push": _nothing(), "range_pop": _nothing()}
        patches.enter_context(patch.multiple(torch.cuda.nvtx, **nvtx))
        data = property(lambda tensor: _data.__get__(tensor), _set_data)
        patches.enter_context(patch.object(FakeTensor, "data", data, create=True))
        patches.enter_context(patch.object(FakeTensorMode, "avoid_device_init", True))
        pin = lambda tensor, device=None: pinned.pin_memory(tensor, device)  # noqa: E731
        patches.enter_context(patch.object(FakeTensor, "pin_memory", pin, create=True))
        patches.enter_context(
            patch.object(FakeTensor, "is_pinned", lambda tensor: False, create=True)
        )
        yield pinned

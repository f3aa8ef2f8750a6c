"""torch's fake tensors, with the shortest way for the operators that a step is full of.

torch looks every operator up by a hash of all its arguments, and works out some shapes in Python.
The shape of a view needs neither: it is what the operator itself says of tensors without contents.

Where a GPU is meant, a layer norm's mean and 1 / sigma are float32, as CUDA keeps them of bfloat16
(a CPU rounds them): the fake device is a CPU, and this is all that differs in bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_LAYER_NORM = _ATEN.native_layer_norm.default

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
"""Views, and what joins tensors; all others go torch's way."""


class ShortcutMode(FakeTensorMode):
    """Makes fake tensors that are just as torch makes them, sooner."""

    def __init__(self, *, like_cuda: bool, allow_non_fake_inputs: bool = False) -> None:
        super().__init__(allow_non_fake_inputs=allow_non_fake_inputs)
        self.like_cuda = like_cuda

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
        if func not in SHORT or not self._all_plain(args[0]):
            out: Any = super().__torch_dispatch__(func, types, args, kwargs)
            if func is _LAYER_NORM and self.like_cuda:
                return (out[0], *(self._float32(statistic) for statistic in out[1:]))
            return out
        with in_kernel_invocation_manager(self):
            out = func(*args, **kwargs)
        if isinstance(out, torch.Tensor):
            return self._fake(out, args[0])
        return [self._fake(piece, args[0]) for piece in out]

    def _all_plain(self, sources: Any) -> bool:
        """All fake, and none a number whose value torch remembers and computes with."""
        tensors = sources if isinstance(sources, (list, tuple)) else (sources,)
        device = getattr(tensors[0], "fake_device", None) if tensors else None
        return bool(tensors) and all(
            type(tensor) is FakeTensor
            and tensor.fake_mode is self
            and tensor.constant is None
            and tensor.fake_device == device
            for tensor in tensors
        )

    def _float32(self, statistic: FakeTensor) -> FakeTensor:
        if statistic.dtype not in (torch.bfloat16, torch.float16):
            return statistic
        wider = torch.empty(statistic.shape, dtype=torch.float32, device="meta")
        return FakeTensor(self, wider, statistic.fake_device)

    def _fake(self, out: torch.Tensor, sources: Any) -> FakeTensor:
        first = sources[0] if isinstance(sources, (list, tuple)) else sources
        return FakeTensor(self, out, first.fake_device)

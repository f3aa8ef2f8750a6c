"""The storages behind tensors, and how to notice that a storage changes its size."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from baselines.protocol import Kind


class LiveStorage:
    """One live storage. `kind` None: known, but not counted. Keys recur, serials do not."""

    __slots__ = ("kind", "nbytes", "reference", "serial")

    def __init__(self, kind: Kind | None, reference: weakref.ref[Any], serial: int) -> None:
        self.kind = kind
        self.nbytes = 0
        self.reference = reference
        self.serial = serial


def plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with storages behind a tensor: itself, or parts of a wrapper or sparse one."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from plain(getattr(tensor, name))
    elif tensor.layout is torch.strided:
        yield tensor
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()


@contextmanager
def resizes_noticed(notice: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Inside, `UntypedStorage.resize_` also calls `notice`: no operator shows the resize."""
    resize = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, *size: Any) -> Any:
        result = resize(storage, *size)
        notice(storage)
        return result

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

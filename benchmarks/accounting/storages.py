"""Where tensors keep their bytes, and how to notice that a storage changes its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with storages behind one: itself, what a wrapper wraps, parts of a sparse one."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from plain(getattr(tensor, name))
    elif tensor.layout is torch.strided:
        yield tensor
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()


def noticed(
    resize: Callable[..., Any], notice: Callable[[torch.UntypedStorage], None]
) -> Callable[..., Any]:
    """`UntypedStorage.resize_` that also tells `notice`: no operator does."""

    def resize_(storage: torch.UntypedStorage, *size: Any) -> Any:
        result = resize(storage, *size)
        notice(storage)
        return result

    return resize_

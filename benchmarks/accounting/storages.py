"""The storages behind tensors: which count, and how to notice that one changes its size."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from baselines.protocol import Kind


@dataclass(kw_only=True, slots=True)
class LiveStorage:
    """One live storage. `kind` None: known, but not counted. Keys recur, serials do not."""

    kind: Kind | None
    reference: weakref.ref[Any]
    serial: int
    nbytes: int = 0


def plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors with storages behind a tensor: itself, or parts of a wrapper or sparse one."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            inner = getattr(tensor, name)
            if isinstance(inner, Tensor):  # a DTensor names its mesh too
                yield from plain(inner)
    elif tensor.layout is torch.strided:
        yield tensor
    elif tensor.layout is torch.sparse_coo:
        yield tensor._indices()
        yield tensor._values()


def resizes_noticed(notice: Callable[[torch.UntypedStorage], None]) -> AbstractContextManager[Any]:
    """Inside, `UntypedStorage.resize_` also calls `notice`: no operator shows the resize."""
    resize = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, *size: Any) -> Any:
        result = resize(storage, *size)
        notice(storage)
        return result

    return patch.object(torch.UntypedStorage, "resize_", resize_)


def shapes_uncounted() -> AbstractContextManager[Any]:
    """Inside, DTensor computes its global shapes outside of all dispatch modes.

    It runs the operator on fake tensors of global size, which no rank has.
    """
    if "torch.distributed.tensor" not in sys.modules:
        return nullcontext()
    from torch.distributed.tensor._sharding_prop import ShardingPropagator

    propagate = ShardingPropagator._propagate_tensor_meta_non_cached

    def outside(propagator: ShardingPropagator, schema: Any) -> Any:
        with _disable_current_modes():
            return propagate(propagator, schema)

    return patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", outside)

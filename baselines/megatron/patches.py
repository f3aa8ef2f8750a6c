"""Patches for megatron-core on a CPU or over torch's fake group: one Patch per obstacle.

No patch changes `torch` itself: patches rebind names inside megatron.core. One mends a fault of the
library on every device, where a run meets the fault; no other patch changes a run on CUDA.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from baselines.megatron.messages import hold_what_is_sent, receive_in_the_order_of_sends
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Unavailable
from baselines.versions import version

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One change to megatron.core, for releases `first` to `last`.

    `where` is a device type or a backend of the default process group. A patch with `meets_fault`
    is applied wherever a run of these settings meets the fault, whatever the release.
    """

    id: str
    where: Literal["cpu", "fake", "everywhere"]
    reason: str
    apply: Callable[[], None]
    first: str = "0.16.0"
    last: str = "0.16.1"
    meets_fault: Callable[[MegatronSettings], bool] | None = None

    def is_needed(self, place: tuple[str, str], settings: MegatronSettings) -> bool:
        """place: device type and backend."""
        if self.meets_fault is not None:
            return self.meets_fault(settings)
        return self.where in place

    def is_written_for(self, installed: str) -> bool:
        """Whether the release is one of those; a patch by fault is written for all."""
        if self.meets_fault is not None:
            return True
        return _release(self.first) <= _release(installed) <= _release(self.last)


def _release(text: str) -> tuple[int, ...]:
    """The release number: "0.16.1rc2" -> (0, 16, 1)."""
    release = re.match(r"\d+(\.\d+){0,2}", text)
    return tuple(int(number) for number in release[0].split(".")) if release else ()


def _rebind(module: str, **names: Any) -> None:
    """Replace names of a module of megatron.core."""
    vars(importlib.import_module(f"megatron.core.{module}")).update(names)


class _ModuleView(types.ModuleType):
    """A module with a few names replaced."""

    def __init__(self, target: types.ModuleType, **replaced: Any) -> None:
        super().__init__(target.__name__)
        self.__dict__.update(replaced)
        self.__dict__["_target"] = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_target"], name)


def _on_cpu(factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def build(*arguments: Any, **options: Any) -> Tensor:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = _CPU
        return factory(*arguments, **options)

    return build


_DEVICE_MODULES = (
    "distributed.param_and_grad_buffer",
    "models.common.embeddings.rotary_pos_embedding",
    "optimizer.clip_grads",
    "optimizer.distrib_optimizer",
    "optimizer.optimizer",
    "pipeline_parallel.p2p_communication",
    "pipeline_parallel.schedules",
    "tensor_parallel.layers",
    "tensor_parallel.mappings",
    "tensor_parallel.random",
    "tensor_parallel.utils",
    "utils",
)


def _redirect_devices() -> None:
    factories = {name: _on_cpu(getattr(torch, name)) for name in ("zeros", "empty", "tensor")}
    cuda = _ModuleView(torch.cuda, current_device=lambda: _CPU, manual_seed=lambda seed: None)
    view = _ModuleView(torch, cuda=cuda, **factories)
    for name in _DEVICE_MODULES:
        _rebind(name, torch=view)


def _skip_cuda_random_state() -> None:
    empty = torch.empty(0, dtype=torch.uint8)
    _rebind(
        "tensor_parallel.random",
        _get_cuda_rng_state=lambda *_, **__: empty,
        _set_cuda_rng_state=lambda *_, **__: None,
    )


def _rotary_of_this_rank(table: Tensor, axis: int, group: torch.distributed.ProcessGroup) -> Tensor:
    chunks = table.chunk(2 * group.size(), dim=axis)
    return torch.cat((chunks[group.rank()], chunks[-1 - group.rank()]), dim=axis)


def _slice_rotary_without_pinning() -> None:
    for name in ("rope_utils", "rotary_pos_embedding"):
        module = f"models.common.embeddings.{name}"
        _rebind(module, get_pos_emb_on_this_cp_rank=_rotary_of_this_rank)


@contextlib.contextmanager
def _one_by_one(*_: Any, **__: Any) -> Iterator[types.SimpleNamespace]:
    """The collectives are done at once: their handle has nothing to wait for."""
    yield types.SimpleNamespace(wait=lambda: None)


def _reduce_buckets_one_by_one() -> None:
    _rebind("distributed.param_and_grad_buffer", _coalescing_manager=_one_by_one)


def _gather_own_object(into: list[Any], own: Any, *_: Any, **__: Any) -> None:
    into[:] = [own] * len(into)


def _assume_equal_parameter_groups() -> None:
    distributed = _ModuleView(torch.distributed, all_gather_object=_gather_own_object)
    _rebind("optimizer", torch=_ModuleView(torch, distributed=distributed))


def _scalars(values: Any) -> Any:
    return [_scalars(value) for value in values] if isinstance(values, list) else float(values)


def _read_norms_one_by_one() -> None:
    current = importlib.import_module("megatron.core.utils").torch

    def tensor(values: Any, **options: Any) -> Any:
        return current.tensor(_scalars(values), **options)

    _rebind("utils", torch=_ModuleView(current, tensor=tensor))


def _recomputes_norms_in_fp8(settings: MegatronSettings) -> bool:
    """Whether norms are recomputed, and a default asks for FP8 without TransformerEngine."""
    if "layernorm" not in settings.recompute_modules:
        return False
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    return bool(random.CheckpointWithoutOutput().fp8) and not random.HAVE_TE


def _no_fp8_without_fp8() -> None:
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    without = functools.partial(random.CheckpointWithoutOutput, fp8=None)
    _rebind("tensor_parallel", CheckpointWithoutOutput=without)


PATCHES = (
    Patch(
        id="layernorm-recompute",
        where="everywhere",
        reason="a default takes FP8 for granted, which fails without TransformerEngine (#4469)",
        apply=_no_fp8_without_fp8,
        meets_fault=_recomputes_norms_in_fp8,
    ),
    Patch(
        id="held-sends",
        where="cpu",
        reason="gloo still reads an interleaved stage's output when Megatron has deallocated it",
        apply=hold_what_is_sent,
    ),
    Patch(
        id="two-stage-batches",
        where="cpu",
        reason="gloo pairs a batch's messages by order: two stages exchange them crosswise",
        apply=receive_in_the_order_of_sends,
    ),
    Patch(
        id="cpu-device",
        where="cpu",
        reason='buffers are made on the literal device "cuda" or on torch.cuda.current_device()',
        apply=_redirect_devices,
    ),
    Patch(
        id="cpu-random-state",
        where="cpu",
        reason="recompute saves the CUDA generator's state; that of the CPU is saved in any case",
        apply=_skip_cuda_random_state,
    ),
    Patch(
        id="cpu-context-parallel-rotary",
        where="cpu",
        reason="the rotary table of a context-parallel rank is picked by a pinned index on CUDA",
        apply=_slice_rotary_without_pinning,
    ),
    Patch(
        id="fake-coalescing",
        where="fake",
        reason="fake tensors have no coalesced collective, and the fake group is done at once",
        apply=_reduce_buckets_one_by_one,
    ),
    Patch(
        id="fake-parameter-groups",
        where="fake",
        reason="the optimizer compares its groups with those of ranks that are absent",
        apply=_assume_equal_parameter_groups,
    ),
    Patch(
        id="fake-gradient-norm",
        where="fake",
        reason="torch.tensor of a list of tensors reads their storages; float() does not",
        apply=_read_norms_one_by_one,
    ),
)


def apply_patches(
    device: torch.device, backend: str, settings: MegatronSettings
) -> tuple[str, ...]:
    """Apply the patches of this device, process group and these settings; returns their ids.

    Raises Unavailable for a megatron-core outside the range the patches were written for.
    """
    installed = version("megatron-core")
    place = (device.type, backend)
    needed = [change for change in PATCHES if change.is_needed(place, settings)]
    for change in needed:
        if not change.is_written_for(installed):
            raise Unavailable(
                f"megatron-core {installed}: patch {change.id} is written for {change.first} to "
                f"{change.last}; install one of those"
            )
        change.apply()
    return tuple(change.id for change in needed)


def cuda_type_names(device: torch.device) -> AbstractContextManager[Any]:
    """Context of Megatron's optimizer: it compares `tensor.type()` with 'torch.cuda.FloatTensor'.

    A context and not a Patch: this one change reaches into torch, so it must end at once.
    """
    if device.type == "cuda":
        return contextlib.nullcontext()
    original = torch.Tensor.type

    def cuda_name(self: Tensor, *arguments: Any, **options: Any) -> Any:
        name = original(self, *arguments, **options)
        return name.replace("torch.", "torch.cuda.", 1) if isinstance(name, str) else name

    return patch.object(torch.Tensor, "type", cuda_name)

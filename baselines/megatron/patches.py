"""What megatron-core needs to run on a CPU or over torch's fake group: one Patch per obstacle.

Nothing here touches a run on CUDA, and `torch` itself stays as it is: the patches rebind names
inside megatron.core.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.protocol import Unavailable

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One change to megatron.core, needed in versions `first` to `last` (release numbers).

    `where` is a device type, or a backend of the default process group.
    """

    id: str
    where: Literal["cpu", "fake"]
    reason: str
    first: str
    last: str
    apply: Callable[[], None]

    def covers(self, installed: str) -> bool:
        return _release(self.first) <= _release(installed) <= _release(self.last)


def _release(text: str) -> tuple[int, ...]:
    """ "0.16.1" as (0, 16, 1); anything after the release number is ignored."""
    numbers = []
    for part in text.split("."):
        digits = "".join(character for character in part if character.isdigit())
        if not part[:1].isdigit():
            break
        numbers.append(int(digits))
    return tuple(numbers[:3])


class _View(types.ModuleType):
    """A module seen through a few replaced names."""

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


def _torch_on_cpu() -> types.ModuleType:
    factories = {name: _on_cpu(getattr(torch, name)) for name in ("zeros", "empty", "tensor")}
    cuda = _View(torch.cuda, current_device=lambda: _CPU, manual_seed=lambda seed: None)
    return _View(torch, cuda=cuda, **factories)


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
    view = _torch_on_cpu()
    for name in _DEVICE_MODULES:
        importlib.import_module(f"megatron.core.{name}").torch = view  # type: ignore[attr-defined]


def _forget_cuda_random_state() -> None:
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    nothing = torch.empty(0, dtype=torch.uint8)
    random._get_cuda_rng_state = lambda *_, **__: nothing  # type: ignore[attr-defined]
    random._set_cuda_rng_state = lambda *_, **__: None  # type: ignore[attr-defined]


def _rotary_of_this_rank(table: Tensor, axis: int, group: torch.distributed.ProcessGroup) -> Tensor:
    chunks = table.chunk(2 * group.size(), dim=axis)
    return torch.cat((chunks[group.rank()], chunks[-1 - group.rank()]), dim=axis)


def _slice_rotary_without_pinning() -> None:
    for name in ("rope_utils", "rotary_pos_embedding"):
        module = importlib.import_module(f"megatron.core.models.common.embeddings.{name}")
        module.get_pos_emb_on_this_cp_rank = _rotary_of_this_rank  # type: ignore[attr-defined]


class _Done:
    """The handle of collectives that are over."""

    def wait(self) -> None:
        pass


@contextlib.contextmanager
def _one_by_one(*_: Any, **__: Any) -> Iterator[_Done]:
    yield _Done()


def _reduce_buckets_one_by_one() -> None:
    module = importlib.import_module("megatron.core.distributed.param_and_grad_buffer")
    module._coalescing_manager = _one_by_one  # type: ignore[attr-defined]


def _gather_own_object(into: list[Any], mine: Any, *_: Any, **__: Any) -> None:
    into[:] = [mine] * len(into)


def _assume_equal_parameter_groups() -> None:
    module = importlib.import_module("megatron.core.optimizer")
    distributed = _View(torch.distributed, all_gather_object=_gather_own_object)
    module.torch = _View(torch, distributed=distributed)  # type: ignore[attr-defined]


def _scalars(values: Any) -> Any:
    return [_scalars(value) for value in values] if isinstance(values, list) else float(values)


def _read_norms_one_by_one() -> None:
    module = importlib.import_module("megatron.core.utils")
    seen = module.torch

    def tensor(values: Any, **options: Any) -> Tensor:
        built: Tensor = seen.tensor(_scalars(values), **options)
        return built

    module.torch = _View(seen, tensor=tensor)  # type: ignore[attr-defined]


PATCHES = (
    Patch(
        id="cpu-device",
        where="cpu",
        reason='buffers are made on the literal device "cuda" or on torch.cuda.current_device()',
        first="0.16.0",
        last="0.16.1",
        apply=_redirect_devices,
    ),
    Patch(
        id="cpu-random-state",
        where="cpu",
        reason="recompute saves the CUDA generator's state; the CPU generator's is saved anyway",
        first="0.16.0",
        last="0.16.1",
        apply=_forget_cuda_random_state,
    ),
    Patch(
        id="cpu-context-parallel-rotary",
        where="cpu",
        reason="the rotary table of a context-parallel rank is picked by a pinned index on CUDA",
        first="0.16.0",
        last="0.16.1",
        apply=_slice_rotary_without_pinning,
    ),
    Patch(
        id="fake-coalescing",
        where="fake",
        reason="fake tensors know no coalesced collective; the fake group is done at once anyway",
        first="0.16.0",
        last="0.16.1",
        apply=_reduce_buckets_one_by_one,
    ),
    Patch(
        id="fake-parameter-groups",
        where="fake",
        reason="the optimizer compares its groups with all ranks' as pickled bytes; here nobody is",
        first="0.16.0",
        last="0.16.1",
        apply=_assume_equal_parameter_groups,
    ),
    Patch(
        id="fake-gradient-norm",
        where="fake",
        reason="torch.tensor of a list of tensors reads their storages; float() can be answered",
        first="0.16.0",
        last="0.16.1",
        apply=_read_norms_one_by_one,
    ),
)


def apply_patches(device: torch.device, backend: str) -> tuple[str, ...]:
    """Apply what this device and process group need and return the ids; nothing for CUDA on NCCL.

    Raises Unavailable for a megatron-core outside the range the patches were written for.
    """
    needed = [patch for patch in PATCHES if patch.where in (device.type, backend)]
    installed = version("megatron-core")
    for patch in needed:
        if not patch.covers(installed):
            raise Unavailable(
                f"megatron-core {installed}: patch {patch.id} is written for {patch.first} to "
                f"{patch.last}; install one of those"
            )
        patch.apply()
    return tuple(patch.id for patch in needed)


@contextlib.contextmanager
def cuda_type_names(device: torch.device) -> Iterator[None]:
    """Around Megatron's optimizer, which compares `tensor.type()` with 'torch.cuda.FloatTensor'.

    A scope and not a Patch: it is the one change that reaches into torch, so it ends at once.
    """
    if device.type == "cuda":
        yield
        return
    original = torch.Tensor.type

    def cuda_name(self: Tensor, *arguments: Any, **options: Any) -> Any:
        answer = original(self, *arguments, **options)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    torch.Tensor.type = cuda_name  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del torch.Tensor.type  # torch's own is inherited: this uncovers it again

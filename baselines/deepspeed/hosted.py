"""Checkpoints in host memory by torch's saved-tensor hooks: ours, for a CPU.

DeepSpeed's own (`CheckpointHiddenStatesOffload`) hosts tensors of CUDA alone. The inputs of
checkpointed regions are hosted, and where attention is saved also its outputs. Copies are
synchronous. Shared mappings lie outside a process's own memory limit.
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import noop_context_fn

from baselines.attention_saving import ATTENTION
from baselines.deepspeed.checkpointing import Contexts, Region, region
from baselines.deepspeed.settings import Checkpointing
from baselines.protocol import Context
from sppo.config.errors import HostTierFull

CURE = "take fewer tokens, more ranks, or deepspeed, which hosts nothing on a CPU"


def shared_mapping(size_bytes: int, device: torch.device) -> Tensor:
    """uint8 [size_bytes] of shared memory. Raises HostTierFull if the host refuses."""
    try:
        mapping = mmap.mmap(-1, size_bytes)
    except OSError as error:
        raise HostTierFull(f"the host refused {size_bytes} bytes ({error}); {CURE}") from error
    return torch.frombuffer(mapping, dtype=torch.uint8)


class HostTier:
    """Slots of host memory by size, taken once and reused.

    capacity_bytes: the most that real ranks take (None: any). An emulation counts the use instead.
    """

    def __init__(self, context: Context, capacity_bytes: int | None = None) -> None:
        self.context = context
        self.capacity_bytes = None if context.take_host else capacity_bytes
        self.taken_bytes = 0
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._tokens = 0

    def begin_step(self, tokens: int) -> None:
        """Forget the slots of steps with another sequence length: no size recurs."""
        if tokens != self._tokens:
            self.taken_bytes -= sum(size * len(slots) for size, slots in self._free.items())
            self._free.clear()
        self._tokens = tokens

    def store(self, tensor: Tensor) -> HostedTensor:
        """Copy a dense tensor to a slot."""
        return HostedTensor(self, tensor)

    def take(self, size_bytes: int) -> Tensor:
        """uint8 [size_bytes] that nobody else uses. Raises HostTierFull beyond the capacity."""
        free = self._free[size_bytes]
        if free:
            return free.pop()
        if self.capacity_bytes is not None and self.taken_bytes + size_bytes > self.capacity_bytes:
            raise HostTierFull(
                f"the host tier of a rank is {self.capacity_bytes} bytes and has taken "
                f"{self.taken_bytes}: {size_bytes} more do not fit; {CURE}"
            )
        slot = (self.context.take_host or shared_mapping)(size_bytes, self.context.device)
        self.taken_bytes += size_bytes
        self.context.label("host", slot)
        return slot

    def give_back(self, slot: Tensor) -> None:
        """Let later tensors have the slot."""
        self._free[slot.numel()].append(slot)


class HostedTensor:
    """A tensor in the host tier, with its strides; it is read once."""

    def __init__(self, tier: HostTier, tensor: Tensor) -> None:
        self.tier = tier
        self.device = tensor.device
        self.size, self.stride = tensor.size(), tensor.stride()
        extents = zip(self.size, self.stride, strict=True)
        dense = sum((size - 1) * stride for size, stride in extents) + 1 == tensor.numel()
        assert dense, "a tensor with gaps or overlaps"
        self.slot: Tensor | None = tier.take(tensor.numel() * tensor.element_size())
        self.dtype = tensor.dtype
        self._of(self.slot).copy_(tensor.detach())

    def _of(self, slot: Tensor) -> Tensor:
        return slot.view(self.dtype).as_strided(self.size, self.stride)

    def reload(self) -> Tensor:
        """The tensor on its device; the slot is free for another."""
        assert self.slot is not None, "a hosted tensor is read once"
        tensor = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)
        tensor.copy_(self._of(self.slot))
        self.tier.give_back(self.slot)
        self.slot = None
        return tensor


class _Store(TorchDispatchMode):
    """Attention's outputs are copied to the host tier."""

    def __init__(self, tier: HostTier, kept: list[list[HostedTensor]]) -> None:
        super().__init__()
        self.tier = tier
        self.kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in ATTENTION:
            self.kept.append([self.tier.store(tensor) for tensor in out])
        return out


class _Reload(TorchDispatchMode):
    """Attention's outputs come from the host tier, in the order of the calls."""

    def __init__(self, kept: list[list[HostedTensor]]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in ATTENTION:
            return tuple(tensor.reload() for tensor in self.kept.pop(0))
        return func(*args, **(kwargs or {}))


def _contexts(tier: HostTier) -> tuple[_Store, _Reload]:
    kept: list[list[HostedTensor]] = []
    return _Store(tier, kept), _Reload(kept)


def hosted_region(checkpointing: Checkpointing, tier: HostTier) -> Region:
    """A region whose input, and saved attention, lie in the host tier until its backward."""
    contexts: Contexts = noop_context_fn
    if checkpointing == "save-attention":
        contexts = partial(_contexts, tier)
    checkpointed = region(contexts)

    def pack(tensor: Tensor) -> Tensor | HostedTensor:
        # The rotary tables are no part of the graph, and all blocks share them.
        return tier.store(tensor) if tensor.requires_grad else tensor

    def unpack(packed: Tensor | HostedTensor) -> Tensor:
        return packed.reload() if isinstance(packed, HostedTensor) else packed

    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        with saved_tensors_hooks(pack, unpack):
            return checkpointed(function, *inputs)

    return run

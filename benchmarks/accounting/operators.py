"""FLOPs and messages of one operator, from its arguments' shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from benchmarks.job import ATTENTION, MASKED

CUDA_FLASH = "_scaled_dot_product_flash_attention"

COLLECTIVE_NAMESPACES = ("c10d", "_c10d_functional")
BARRIERS = ("barrier", "monitored_barrier_")
NOT_SENT = ("wait_tensor", "_wrap_tensor_autograd")

_VARIANTS = ("_coalesced", "_base", "_into_tensor", "_tensor", "_single")
"""Suffixes of c10d's operators for one collective."""

_COLLECTIVES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "alltoall": "all_to_all",
    "recv_any_source": "recv",
    "monitored_barrier": "barrier",
}
"""The collective of an operator, where its name differs."""


class Message(NamedTuple):
    """A kind of message: the collective or direction, and the global ranks of its group.

    A `send` goes from the first of two ranks to the second, and so does a `recv`.
    """

    operation: str
    ranks: tuple[int, ...]


def tensor_bytes(value: Any) -> int:
    """Bytes of a tensor, or of all tensors of a list of them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (tuple, list)):
        return sum(tensor_bytes(item) for item in value)
    return 0


def message_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
    """The message of a call of a collective or of point-to-point c10d."""
    name = func._opname.strip("_")
    for suffix in _VARIANTS:
        name = name.removesuffix(suffix)
    operation = _COLLECTIVES.get(name, name)
    group = _group(func, args, kwargs)
    ranks = tuple(dist.get_process_group_ranks(group))
    if operation in ("send", "recv"):
        peer = _argument(func, args, kwargs, "dst" if operation == "send" else "src")
        if peer is not None:  # "recv_any_source" names no peer
            pair = (ranks[group.rank()], ranks[peer])
            ranks = pair if operation == "send" else pair[::-1]
    if operation == "all_to_all":
        splits = _argument(func, args, kwargs, "input_split_sizes") or ()
        receivers = [number for number, size in enumerate(splits) if size]
        if len(splits) > 1 and len(receivers) == 1:  # torch's permute_tensor: a ring
            return Message("send", (ranks[group.rank()], ranks[receivers[0]]))
    return Message(operation, ranks)


class MessageCounts:
    """Calls and bytes of the messages of a step: by c10d's operator, and by message.

    Bytes of a call are those of its larger side: the whole buffer of a gather or scatter.
    """

    def __init__(self) -> None:
        self.collective_calls: Counter[str] = Counter()
        self.collective_bytes: Counter[str] = Counter()
        self.calls: Counter[Message] = Counter()
        self.bytes: Counter[Message] = Counter()

    def count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Add one call of an operator of COLLECTIVE_NAMESPACES."""
        name = func._opname
        if name in NOT_SENT:
            return
        message = message_of(func, args, kwargs)
        self.collective_calls[name] += 1
        self.calls[message] += 1
        if name not in BARRIERS:
            size_bytes = max(tensor_bytes(operand) for operand in (*args, out))
            self.collective_bytes[name] += size_bytes
            self.bytes[message] += size_bytes


def sent_bytes(message: Message, size_bytes: int) -> int:
    """The least bytes that one rank sends; `size_bytes` are those of the call's larger side.

    As in a ring: all but the rank's own share, twice for all_reduce.
    """
    count = len(message.ranks)
    match message.operation:
        case "recv" | "barrier":
            return 0
        case "all_gather" | "reduce_scatter" | "all_to_all":
            return size_bytes * (count - 1) // count
        case "all_reduce":
            return 2 * size_bytes * (count - 1) // count
    return size_bytes if count > 1 else 0


def _group(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dist.ProcessGroup:
    boxed = _argument(func, args, kwargs, "process_group")
    if boxed is not None:
        return dist.ProcessGroup.unbox(boxed)
    name = _argument(func, args, kwargs, "group_name")
    return torch._C._distributed_c10d._resolve_process_group(name)


def operator_flops(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
) -> list[tuple[str, int]]:
    """(name, FLOPs) of the matrix products of one call; empty for all other operators."""
    if func._opname.startswith(ATTENTION):
        return _attention_flops(func, args, kwargs)
    formula = _formula(func)
    if formula is None:
        return []
    return [(str(func._overloadpacket), int(formula(*args, **kwargs, out_val=out)))]


def causal_pairs(queries: int, keys: int, *, lower_right: bool = False) -> int:
    """Query-key pairs under a causal mask: query i sees keys 0..i.

    lower_right: the last query sees all keys, and the one before it one less.
    """
    if lower_right:
        square = min(queries, keys)
        return square * (square + 1) // 2 + max(0, keys - queries) * queries
    square = min(queries, keys)
    return square * (square + 1) // 2 + max(0, queries - keys) * keys


@cache
def _formula(func: Any) -> Callable[..., int] | None:
    """torch's formula. The registry has `addmm` but not the in-place form `addmm_`."""
    packet = func._overloadpacket
    if packet not in flop_registry and func._opname.endswith("_"):
        namespace = getattr(torch.ops, func.namespace)
        packet = getattr(namespace, func._opname.rstrip("_"), packet)
    return flop_registry.get(packet)


@cache
def _positions(func: Any) -> dict[str, int]:
    return {argument.name: index for index, argument in enumerate(func._schema.arguments)}


def _argument(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, default: Any = None
) -> Any:
    index = _positions(func).get(name, len(args))
    return args[index] if index < len(args) else kwargs.get(name, default)


def _attention_flops(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, int]]:
    """Two products in a forward (QK', PV); five in a backward, the first recomputed.

    torch's formulas support neither the CPU operator nor grouped heads.
    """
    batch, heads, queries, width = _argument(func, args, kwargs, "query").shape
    keys, value_width = _argument(func, args, kwargs, "value").shape[-2:]
    if func._opname.endswith("_backward"):
        pair_flops = 2 * batch * heads * (3 * width + 2 * value_width)
    else:
        pair_flops = 2 * batch * heads * (width + value_width)
    name = str(func._overloadpacket)
    pairs = queries * keys
    if not _argument(func, args, kwargs, "is_causal", False):
        return [(name, pair_flops * pairs)]
    # CUDA's flash operator aligns its mask to the lower right, all others to the upper left.
    lower_right = func._opname.startswith(CUDA_FLASH) and "_for_cpu" not in func._opname
    kept = causal_pairs(queries, keys, lower_right=lower_right)
    return [(name, pair_flops * kept), (name + MASKED, pair_flops * (pairs - kept))]

"""Which kernel of attention a process uses: by name after a check, or by a short measurement."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sppo.config.errors import NotSupported
from sppo.kernels.attention import AttentionKernel, Block, scales_of_output
from sppo.kernels.registry import KERNELS, NAMES, selected

AUTO = "auto"

NEVER_RUN = ("fa3", "fa4")
"""Kernels of packages that no test and no launch of this suite has called (docs/gpu.md)."""

CHECKED_TOKENS = 320
CHECKED_PREFIX = 448
TIMED_TOKENS = 4096
REPEATS = 3

LARGEST_ERRORS = {torch.float64: 1e-9, torch.float32: 1e-4}
HALF_ERROR = 2e-2
"""Of output and gradients, relative to their norm. A wrong mask or scale is off by 0.1 and more."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Heads of attention: of queries, of keys and values, and the width of each."""

    query: int
    kv: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The kernel by name; seconds of forward and backward of all measured ones; why not others."""

    name: str
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def select(
    name: str, device: torch.device, dtype: torch.dtype, heads: Heads, *, forced: bool = False
) -> AttentionKernel:
    """Use this kernel in this process, for every system. On CUDA it first proves its numbers.

    forced: also a kernel that never ran. Raises NotSupported with the cure.
    """
    kernel = find(name, device)
    problem = kernel.obstacle(device, dtype, heads.width)
    if problem is None and name in NEVER_RUN and not forced:
        problem = (
            f"the attention kernel {name} has never run in this suite (docs/gpu.md): take flash or "
            "cudnn, or try it by --force-kernel"
        )
    if problem is not None:
        raise NotSupported(problem)
    kernel.prepare()
    if device.type == "cuda":
        check(kernel, device, dtype, heads)
    selected[device.type] = kernel
    return kernel


def find(name: str, device: torch.device) -> AttentionKernel:
    """The kernel of that name for a device. Raises NotSupported with the known names."""
    kernels = KERNELS.get(device.type)
    if kernels is None:
        raise NotSupported(
            f"attention on {device.type}: only cpu and cuda have a flash operator here"
        )
    if name not in kernels:
        known = ", ".join(kernels)
        if name in NAMES:
            raise NotSupported(f"attention kernel {name} needs CUDA; on a {device.type}: {known}")
        raise NotSupported(f"unknown attention kernel {name!r}; known: {known}")
    return kernels[name]


def choose(
    device: torch.device, dtype: torch.dtype, heads: Heads, *, forced: bool = False
) -> Choice:
    """The fastest kernel that is here and right: flash on a CPU, on CUDA by a measurement.

    Raises NotSupported where none is.
    """
    if device.type == "cpu":
        return Choice(name="flash")
    seconds: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name in NAMES:
        if name == "math" and seconds:
            refused[name] = "slow: the choice of last resort"
            continue
        try:
            kernel = select(name, device, dtype, heads, forced=forced)
            seconds[name] = seconds_of(kernel, device, dtype, heads)
        except (NotSupported, RuntimeError) as error:  # a library says its refusal so
            refused[name] = str(error).partition("\n")[0]
    if not seconds:
        raise NotSupported(f"no attention kernel works here: {refused}")
    return Choice(
        name=min(seconds, key=lambda each: seconds[each]), seconds=seconds, refused=refused
    )


def check(
    kernel: AttentionKernel, device: torch.device, dtype: torch.dtype, heads: Heads
) -> dict[str, float]:
    """Errors of output, dQ, dK and dV against float64; raises NotSupported if one is too large.

    A subsequence attends to its own keys and to a prefix, as the engine does, and causally to as
    many keys, under autograd, as peers do.
    """
    errors = errors_of(kernel, device, dtype, heads)
    largest = LARGEST_ERRORS.get(dtype, HALF_ERROR)
    wrong = {name: error for name, error in errors.items() if not error <= largest}
    if wrong:
        words = ", ".join(f"{name} by {error:.2g}" for name, error in wrong.items())
        raise NotSupported(
            f"attention kernel {kernel.name} is wrong on this device, against float64: {words}; "
            "take another by --attention-kernel"
        )
    return errors


def errors_of(
    kernel: AttentionKernel, device: torch.device, dtype: torch.dtype, heads: Heads
) -> dict[str, float]:
    """Relative errors by result, against `math` in float64 on the same inputs."""
    exact = KERNELS[device.type]["math"]
    inputs = _inputs(heads, CHECKED_TOKENS, CHECKED_PREFIX, device, dtype)
    computed = _subsequence(kernel, inputs)
    expected = _subsequence(exact, _Inputs(*(tensor.double() for tensor in inputs)))
    names = ("output", "log-sum-exp", "dQ", "dK", "dV", "dK of the prefix", "dV of the prefix")
    errors = {name: _error(*pair) for name, *pair in zip(names, computed, expected, strict=True)}
    out, logsumexp = computed[:2]
    gradients = _gradients(kernel, inputs, _scaled_gradient(inputs.grad, out), logsumexp)
    for name, *pair in zip(names[2:], gradients, expected[2:], strict=True):
        errors[f"{name} with a scaled gradient"] = _error(*pair)
    computed, expected = (
        _whole(each, *(tensor.to(kind) for tensor in inputs[:4]))
        for each, kind in ((kernel, dtype), (exact, torch.float64))
    )
    causal = ("causal output", "causal dQ", "causal dK", "causal dV")
    for name, *pair in zip(causal, computed, expected, strict=True):
        errors[name] = _error(*pair)
    return errors


def seconds_of(
    kernel: AttentionKernel,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    tokens: int = TIMED_TOKENS,
    prefix: int = TIMED_TOKENS,
) -> float:
    """Median seconds of forward and backward of `tokens` queries over their own and the prefix."""
    inputs = _inputs(heads, tokens, prefix, device, dtype)
    return median_seconds(lambda: _subsequence(kernel, inputs), device, REPEATS)


def median_seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of an action on the device, after one run that warms up."""
    action()
    times = []
    for _ in range(repeats):
        finish(device)
        start = time.perf_counter()
        action()
        finish(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def finish(device: torch.device) -> None:
    """Wait for the device; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def merge(block: Block, other: Block) -> Block:
    """Attention of the same queries to two sets of keys -> to both, the output in float32."""
    (out, logsumexp), (other_out, other_logsumexp) = block, other
    wide = out.dtype if out.dtype == torch.float64 else torch.float32
    weight = torch.sigmoid(other_logsumexp - logsumexp).unsqueeze(-1).to(wide)
    merged = torch.lerp(out.to(wide), other_out.to(wide), weight)
    return merged, torch.logaddexp(logsumexp, other_logsumexp)


class _Inputs(NamedTuple):
    """Query, own keys and values, gradient of the output; keys and values of the prefix."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad: Tensor
    prefix_key: Tensor
    prefix_value: Tensor


def _inputs(
    heads: Heads, tokens: int, prefix: int, device: torch.device, dtype: torch.dtype
) -> _Inputs:
    generator = torch.Generator().manual_seed(11)

    def draw(count: int, length: int) -> Tensor:
        made = torch.randn(1, count, length, heads.width, generator=generator)
        return made.to(device, dtype)

    query, key, value = draw(heads.query, tokens), draw(heads.kv, tokens), draw(heads.kv, tokens)
    grad = draw(heads.query, tokens)
    return _Inputs(query, key, value, grad, draw(heads.kv, prefix), draw(heads.kv, prefix))


def _subsequence(kernel: AttentionKernel, inputs: _Inputs) -> tuple[Tensor, ...]:
    """Output, log-sum-exp and gradients of a subsequence after a prefix."""
    query = inputs.query
    own = kernel.forward(query, inputs.key, inputs.value, True)
    prefix = kernel.forward(query, inputs.prefix_key, inputs.prefix_value, False)
    out, logsumexp = merge(own, prefix)
    out = out.to(query.dtype)
    return out, logsumexp, *_gradients(kernel, inputs, out, logsumexp)


def _gradients(
    kernel: AttentionKernel, inputs: _Inputs, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, ...]:
    query, key, value, grad, prefix_key, prefix_value = inputs
    of_own = kernel.backward(grad, query, key, value, out, logsumexp, True)
    of_prefix = kernel.backward(grad, query, prefix_key, prefix_value, out, logsumexp, False)
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    query_gradient = of_own[0].to(precision) + of_prefix[0].to(precision)
    return query_gradient, *of_own[1:], *of_prefix[1:]


def _scaled_gradient(grad: Tensor, out: Tensor) -> Tensor:
    """A multiple of the gradient that may stand for the output in a backward."""
    return (grad * scales_of_output(grad, out)).to(grad.dtype)


def _whole(
    kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """Output and gradients of causal attention under autograd."""
    operands = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    out = kernel.causal(*operands)
    return out.detach(), *torch.autograd.grad(out, operands, grad)


def _error(computed: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    difference = (computed.double() - expected.double()).norm().item()
    error = difference / expected.double().norm().item()
    return error if math.isfinite(error) else math.inf

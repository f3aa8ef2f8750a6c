"""The kernels of attention: their numbers against float64, and their calls on CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sppo.config.errors import NotSupported
from sppo.kernels import choice, torch_attention
from sppo.kernels.choice import Heads
from sppo.kernels.registry import KERNELS
from sppo.kernels.torch_attention import CpuFlash

CPU = torch.device("cpu")
HEADS = Heads(query=4, kv=4, width=32)
GROUPED = Heads(query=4, kv=2, width=32)


@pytest.mark.parametrize("name", ["flash", "math"])
@pytest.mark.parametrize("heads", [HEADS, GROUPED], ids=["heads", "grouped"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_subsequence_after_a_prefix_equals_float64(
    name: str, heads: Heads, dtype: torch.dtype
) -> None:
    errors = choice.check(KERNELS["cpu"][name], CPU, dtype, heads)
    assert len(errors) == 16
    # The check itself must not be exact by comparing a kernel with itself.
    assert dtype == torch.float64 or max(errors.values()) > 0


def test_the_math_kernel_works_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = KERNELS["cpu"]["math"]
    monkeypatch.setattr(kernel, "tile_scores", 4 * 448 * 100)
    assert max(choice.errors_of(kernel, CPU, torch.float64, GROUPED).values()) < 1e-12


class WithoutMask(CpuFlash):
    """Wrong: every query of a subsequence sees all its keys."""

    def forward(self, query: Any, keys: Any, values: Any, causal: bool) -> Any:
        return super().forward(query, keys, values, False)


class OwnLogSumExp(CpuFlash):
    """Wrong: the backward takes each block for the whole attention."""

    def backward(self, *block: Any) -> Any:
        grad, query, keys, values, _, _, causal = block
        out, logsumexp = self.forward(query, keys, values, causal)
        return super().backward(grad, query, keys, values, out, logsumexp, causal)


@pytest.mark.parametrize("wrong", [WithoutMask("wrong"), OwnLogSumExp("wrong")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_kernel_is_refused(wrong: CpuFlash, dtype: torch.dtype) -> None:
    with pytest.raises(NotSupported, match="kernel wrong is wrong on this device"):
        choice.check(wrong, CPU, dtype, HEADS)


class Recorder(TorchDispatchMode):
    """The operators of attention that were called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if "attention" in func._opname:
            self.calls.append((func._opname, args))
        return func(*args, **(kwargs or {}))


def on_meta(heads: int, tokens: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(1, heads, tokens, 64, device="meta", dtype=dtype)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("flash", "_scaled_dot_product_flash_attention"),
        ("fa3", "_scaled_dot_product_flash_attention"),
        ("fa4", "_scaled_dot_product_flash_attention"),
        ("cudnn", "_scaled_dot_product_cudnn_attention"),
    ],
)
def test_the_calls_on_cuda(name: str, operator: str, causal: bool) -> None:
    """The real operators on meta tensors: schema, dtype and shape of what goes in and comes out."""
    kernel = KERNELS["cuda"][name]
    keys_count = 256 if causal else 384
    query, grad, keys, values = (
        on_meta(8, 256),
        on_meta(8, 256),
        *(on_meta(2, keys_count) for _ in range(2)),
    )
    with Recorder() as recorder:
        out, logsumexp = kernel.forward(query, keys, values, causal)
        gradients = kernel.backward(grad, query, keys, values, out, logsumexp, causal)
    assert (out.shape, out.dtype) == (query.shape, torch.bfloat16)
    assert (logsumexp.shape, logsumexp.dtype) == ((1, 8, 256), torch.float32)
    assert [each.shape for each in gradients] == [query.shape, keys.shape, values.shape]
    assert {each.dtype for each in gradients} == {torch.bfloat16}
    (forward, arguments), (backward, further) = recorder.calls
    assert (forward, backward) == (operator, f"{operator}_backward")
    schema = getattr(torch.ops.aten, operator).default._schema
    given = dict(zip((each.name for each in schema.arguments), arguments, strict=False))
    assert given.get("is_causal", False) is causal  # a default is left out
    assert given.get("dropout_p", 0.0) == 0.0
    assert given.get("compute_log_sumexp", True) is True
    assert given.get("attn_bias") is None
    schema = getattr(torch.ops.aten, f"{operator}_backward").default._schema
    given = dict(zip((each.name for each in schema.arguments), further, strict=False))
    assert given["is_causal"] is causal
    assert given["dropout_p"] == 0.0
    assert (given["max_q"], given["max_k"]) == (256, keys_count)
    axes = 4 if name == "cudnn" else 3
    assert given["logsumexp"].dim() == axes


@pytest.mark.parametrize(
    ("name", "backend"), [("flash", "FLASH_ATTENTION"), ("cudnn", "CUDNN_ATTENTION")]
)
def test_peers_get_the_same_kernel_and_no_other(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own call sees exactly one backend."""
    seen: list[list[str]] = []

    def attention_here(*operands: torch.Tensor) -> torch.Tensor:
        flags = {
            "FLASH_ATTENTION": torch.backends.cuda.flash_sdp_enabled(),
            "CUDNN_ATTENTION": torch.backends.cuda.cudnn_sdp_enabled(),
            "EFFICIENT_ATTENTION": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "MATH": torch.backends.cuda.math_sdp_enabled(),
        }
        seen.append([each for each, on in flags.items() if on])
        return operands[0]

    monkeypatch.setattr(torch_attention, "_torch_attention", attention_here)
    KERNELS["cuda"][name].causal(*(torch.zeros(1, 2, 4, 8) for _ in range(3)))
    assert seen == [[backend]]


def test_megatron_splits_a_chunk_by_the_kernel_s_mask() -> None:
    """FlashAttention-2 aligns its causal mask to the lower right; cuDNN and CPUs do not."""
    from baselines.megatron.attention import _blocks

    cuda, cpu = KERNELS["cuda"], KERNELS["cpu"]
    for name in ("flash", "fa3", "fa4"):
        assert _blocks(64, 96, cuda[name]) == [(0, 96, True)]
    for kernel in (cuda["cudnn"], cuda["math"], cpu["flash"]):
        assert _blocks(64, 96, kernel) == [(64, 96, True), (0, 64, False)]
        assert _blocks(0, 32, kernel) == [(0, 32, True)]

"""The CPU twin of tests/gpu/test_engine_cuda.py: attention against resident and hosted K and V."""

from __future__ import annotations

import pytest
import torch

from sppo.kernels.attention import scales_of_output
from sppo.kernels.choice import Heads, errors_of
from sppo.kernels.registry import KERNELS
from sppo.offload.host_memory import CopyEvent, CopyStreams, contiguous_pieces
from tests.attention_cases import check_against_full_attention


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("block_tokens", [0, 96, 128])
@pytest.mark.parametrize(
    ("lengths", "all_summed"),
    [((256, 192, 64), False), ((256, 192, 64), True), ((192, 320), False), ((320,), False)],
)
def test_prefix_attention_equals_full_causal_attention(
    kv_heads: int, block_tokens: int, lengths: tuple[int, ...], all_summed: bool
) -> None:
    check_against_full_attention(
        torch.device("cpu"),
        torch.float64,
        kv_heads=kv_heads,
        block_tokens=block_tokens,
        tolerance=1e-9,
        lengths=lengths,
        all_summed=all_summed,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_scaled_gradient_has_the_sums_of_the_output(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    grad, output = (torch.randn(40, 3, 16, generator=generator).to(dtype) for _ in range(2))
    grad[7] = 0.0
    scales = scales_of_output(grad, output)
    assert scales.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    scaled = (grad * scales).to(dtype).double()
    sums = [(grad.double() * each.double()).sum(-1) for each in (scaled, output)]
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(*sums, atol=4 * rounding, rtol=4 * rounding)
    assert scales[7].eq(0.0).all(), "no gradient, and no division by zero"


@pytest.mark.parametrize("name", ["flash", "math"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_reads_the_output_only_in_its_sums(name: str, dtype: torch.dtype) -> None:
    """In bfloat16 the gradients are as exact as with the output itself."""
    kernel = KERNELS["cpu"][name]
    errors = errors_of(kernel, torch.device("cpu"), dtype, Heads(query=4, kv=2, width=32))
    scaled = {key: error for key, error in errors.items() if key.endswith("scaled gradient")}
    assert len(scaled) == 5
    for key, error in scaled.items():
        assert error < 1.5 * errors[key.removesuffix(" with a scaled gradient")] + 1e-6, key


def test_hosted_keys_and_values_are_copied_in_contiguous_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As CUDA copies them: of every head the tokens lie together on both sides."""
    copied = []

    def copy(
        streams: CopyStreams,
        stream: None,
        into: torch.Tensor,
        source: torch.Tensor,
        after: tuple[CopyEvent, ...],
    ) -> None:
        pieces = contiguous_pieces(into, source)
        copied.append(len(pieces))
        for piece, its_source in pieces:
            piece.copy_(its_source)

    monkeypatch.setattr(CopyStreams, "_copy", copy)
    check_against_full_attention(
        torch.device("cpu"), torch.float64, kv_heads=2, block_tokens=96, tolerance=1e-9
    )
    assert set(copied) == {2}

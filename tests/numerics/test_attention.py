"""The CPU twin of tests/gpu/test_engine_cuda.py: attention against resident and hosted K and V."""

from __future__ import annotations

import pytest
import torch

from sppo.model.mixers.prefix_attention import scales_of_output
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
    grad, output = (torch.randn(40, 3 * 16, generator=generator).to(dtype) for _ in range(2))
    grad[7] = 0.0
    scales = scales_of_output(grad, output, 16)
    assert scales.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    grads, outputs = (x.double().unflatten(-1, (-1, 16)) for x in (grad, output))
    scaled = (grads * grads * scales.double().unsqueeze(-1)).sum(-1)
    torch.testing.assert_close(scaled, (grads * outputs).sum(-1), atol=1e-5, rtol=1e-5)
    assert scales[7].eq(0.0).all(), "no gradient, and no division by zero"


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

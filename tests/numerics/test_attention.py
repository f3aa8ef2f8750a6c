"""The CPU twin of tests/gpu/test_engine_cuda.py: attention against resident and hosted K and V."""

from __future__ import annotations

import pytest
import torch

from sppo.offload.host_memory import CopyEvent, CopyStreams, contiguous_pieces
from tests.attention_cases import check_against_full_attention


@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("block_tokens", [0, 96, 128])
def test_prefix_attention_equals_full_causal_attention(kv_heads: int, block_tokens: int) -> None:
    check_against_full_attention(
        torch.device("cpu"),
        torch.float64,
        kv_heads=kv_heads,
        block_tokens=block_tokens,
        tolerance=1e-9,
    )


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

"""The CPU twin of tests/gpu/test_engine_cuda.py: attention against resident and hosted K and V."""

from __future__ import annotations

import pytest
import torch

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

"""The norm by which gradients are clipped: both ways to it, against float64."""

from __future__ import annotations

import pytest
import torch

from sppo.engine import optimizer
from sppo.engine.optimizer import NORM_CHUNK, square_by_chunks, square_in_float64


def test_a_norm_in_float64_copies_no_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer, "FLOAT64_CHUNK", 1000)
    values = torch.ones(10_500)
    with torch.profiler.profile(profile_memory=True) as profiled:
        assert square_in_float64(values).item() == 10_500
    taken = [event.cpu_memory_usage for event in profiled.events()]
    assert max(taken) == 8 * 1000


@pytest.mark.parametrize("elements", [0, 1, NORM_CHUNK, 5 * NORM_CHUNK + 7])
def test_both_sums_of_squares_are_those_of_float64(elements: int) -> None:
    generator = torch.Generator().manual_seed(1)
    values = 1e-3 + torch.rand(elements, generator=generator)
    expected = values.double().square().sum()
    for square in (square_by_chunks, square_in_float64):
        computed = square(values)
        assert computed.dtype == torch.float64
        torch.testing.assert_close(computed, expected, rtol=1e-6, atol=0)

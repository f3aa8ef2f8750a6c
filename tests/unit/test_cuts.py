"""FLOPs, cuts of a sequence and of the layers, against formulas."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload
from sppo.cost_model.flops import step_flops
from sppo.cost_model.times import block_seconds, cut_seconds
from sppo.plan.layout import split_layers
from sppo.planner.layouts.partition import (
    equal_cut,
    flops_balanced_cut,
    prefix_flops,
    time_balanced_cut,
)

PROFILE = load_hardware("cpu-2core")
MODEL = MODELS["gpt-tiny"]


def test_dense_flops_are_24_h_squared_per_token_and_layer() -> None:
    """The paper's convention: 3 * L * (24 h^2 + 2 h S) per token, plus the head."""
    model = MODELS["gpt-7b"]
    workload = Workload(
        name="test",
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
        sequence_tokens=1024**2,
    )
    tokens, hidden = 1024**2, model.hidden
    flops = step_flops(workload)
    layers = 3 * model.layers * 24 * hidden**2 * tokens
    assert flops.dense == layers + 3 * 2 * hidden * model.vocabulary * tokens
    assert flops.attention_causal == 3 * model.layers * 2 * hidden * tokens * (tokens + 1)
    assert flops.attention_full == 3 * model.layers * 4 * hidden * tokens**2


@given(tokens=st.integers(1, 5000), count=st.integers(1, 40), alignment=st.sampled_from((1, 4, 16)))
def test_cuts_cover_the_sequence(tokens: int, count: int, alignment: int) -> None:
    if count * alignment > tokens:
        with pytest.raises(ValueError, match="take N of at most"):
            equal_cut(tokens, count, alignment=alignment)
        return
    for lengths in (
        equal_cut(tokens, count, alignment=alignment),
        flops_balanced_cut(MODEL, tokens, count, alignment=alignment),
        time_balanced_cut(MODEL, PROFILE, tokens, count, alignment=alignment),
    ):
        assert sum(lengths) == tokens
        assert len(lengths) == count
        assert min(lengths) >= 1
        assert all(length % alignment == 0 for length in lengths[:-1])


@given(tokens=st.integers(2**16, 2**23), count=st.integers(1, 64))
def test_a_boundary_is_the_first_position_with_its_share(tokens: int, count: int) -> None:
    """Exact integers, also where a floating-point root would be off by one."""
    model = MODELS["gpt-65b"]
    lengths = flops_balanced_cut(model, tokens, count)
    total, position = prefix_flops(model, tokens), 0
    for index, length in enumerate(lengths[:-1]):
        position += length
        share = total * (index + 1) // count
        assert prefix_flops(model, position) >= share
        assert prefix_flops(model, position - 1) < share


def test_flops_balanced_cut_balances() -> None:
    tokens = 131_072
    lengths = flops_balanced_cut(MODELS["gpt-7b"], tokens, 16, alignment=16)
    costs = []
    start = 0
    for length in lengths:
        before = prefix_flops(MODELS["gpt-7b"], start)
        costs.append(prefix_flops(MODELS["gpt-7b"], start + length) - before)
        start += length
    assert max(costs) / min(costs) < 1.01
    assert lengths[0] > lengths[-1]


def test_a_cap_on_lengths_keeps_the_largest_cost() -> None:
    model, tokens = MODELS["gpt-7b"], 1024**2
    plain = flops_balanced_cut(model, tokens, 64, alignment=128)
    capped = flops_balanced_cut(model, tokens, 64, alignment=128, longest=16_384)
    assert plain[0] > 100_000
    assert max(capped) <= 16_384
    assert sum(capped) == tokens
    assert len(capped) > len(plain)


def test_layers_split_with_the_remainder_in_front() -> None:
    assert split_layers(5, 2) == ((0, 3), (3, 5))
    with pytest.raises(ValueError, match="at most 3 ranks"):
        split_layers(3, 4)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (8, 1, 1), (8, 4, 1), (16, 2, 4)])
def test_times_of_a_cut_at_once_are_those_of_its_subsequences(ranks: tuple[int, int, int]) -> None:
    profile, model = load_hardware("a100-80g"), MODELS["llama-8b"]
    degrees = dict(zip(("shards", "ulysses", "context"), ranks, strict=True))
    lengths = (300_000, 1_024, 65_536, 128, 7 * 16 * 997)
    starts = itertools.accumulate(lengths[:-1], initial=0)
    alone = [
        block_seconds(model, profile, start=start, tokens=tokens, **degrees)
        for start, tokens in zip(starts, lengths, strict=True)
    ]
    together = cut_seconds(model, profile, lengths, **degrees)
    for name in ("forward", "backward", "head"):
        expected = [getattr(block, name) for block in alone]
        assert list(getattr(together, name)) == pytest.approx(expected, rel=1e-12)

"""Chunked = unchunked: losses and gradients of the pipeline against plain torch, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.worker.weights import initial_weights
from sppo.comm.collectives import Team
from sppo.config.models import Model, gpt, llama
from sppo.plan.blocks import block_of
from sppo.plan.blocks.attention import RECOMPUTE_FULL
from tests.numerics.pipelines import make_plan, run_pipeline, run_reference, stage_values

MODELS = (
    gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=61),
    llama("llama-test", layers=4, hidden=32, heads=4, kv_heads=2, ffn=48, vocabulary=61),
    llama("mqa-test", layers=4, hidden=32, heads=4, kv_heads=1, ffn=48, vocabulary=61),
)


LENGTHS = (
    st.lists(st.integers(1, 40), min_size=1, max_size=7)
    .map(tuple)
    .filter(lambda lengths: sum(lengths) > 1)
)


def assert_equal_work(
    model: Model,
    lengths: tuple[int, ...],
    *,
    stages: int,
    virtual_stages: int,
    shards: int = 1,
    ulysses: int = 1,
    context: int = 1,
    share: float,
    recompute: tuple[str, ...] = (),
    kv_block_tokens: int = 0,
    group: int | None = None,
    sequences: int = 1,
    fetch_ahead: int = 0,
    msp: bool = False,
    sharded_weights: bool = False,
    exchange_pieces: int = 1,
) -> None:
    weights = initial_weights(model, 3, torch.float64)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, model.vocabulary, (sequences, sum(lengths) + 1), generator=generator)
    plan = make_plan(
        model,
        lengths,
        stages=stages,
        shards=shards,
        ulysses=ulysses,
        context=context,
        virtual_stages=virtual_stages,
        group=group,
        share=share,
        recompute=recompute,
        kv_block_tokens=kv_block_tokens,
        head_alone=stages > 1 and virtual_stages > 1 and sum(lengths) % 2 == 0,
        mixed=sequences > 1 and virtual_stages == 1 and stages > 1 and not msp,
        sequences=sequences,
        fetch_ahead=fetch_ahead,
        msp=msp,
        sharded_weights=sharded_weights,
        exchange_pieces=exchange_pieces,
    )
    outcome = run_pipeline(plan, weights, tokens)
    loss, gradients = run_reference(model, weights, tokens)
    assert abs(outcome.loss - loss) < 1e-9
    weight_shards = shards // (ulysses * context)
    for index, computed in enumerate(outcome.shards):
        expected = stage_values(model, gradients, Team(weight_shards, index % weight_shards))
        assert set(computed) == set(expected)
        for name, gradient in expected.items():
            difference = (computed[name] - gradient).abs().max().item()
            assert difference < 1e-9, f"{name}, shard {index}: {difference}"


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    lengths=LENGTHS,
    degrees=st.sampled_from(((1, 1), (2, 1), (3, 1), (4, 1), (2, 2))),
    group=st.sampled_from((None, 2, 3)),
    share=st.sampled_from((0.0, 0.3, 0.7, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    kv_block_tokens=st.sampled_from((0, 0, 8, 64)),
    sequences=st.integers(1, 3),
    fetch_ahead=st.integers(0, 1),
)
def test_any_pipeline_equals_plain_torch(
    model: Model,
    lengths: tuple[int, ...],
    degrees: tuple[int, int],
    group: int | None,
    share: float,
    recompute: tuple[str, ...],
    kv_block_tokens: int,
    sequences: int,
    fetch_ahead: int,
) -> None:
    assert_equal_work(
        model,
        lengths,
        stages=degrees[0],
        virtual_stages=degrees[1],
        group=max(group, degrees[0]) if group else None,
        share=share,
        recompute=recompute,
        kv_block_tokens=kv_block_tokens,
        sequences=sequences,
        fetch_ahead=fetch_ahead,
    )


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    lengths=LENGTHS,
    degrees=st.sampled_from(((2, 1), (3, 1), (4, 1), (2, 2))),
    share=st.sampled_from((0.0, 0.3, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    kv_block_tokens=st.sampled_from((0, 5, 64)),
    sequences=st.integers(1, 3),
)
def test_msp_slices_equal_plain_torch(
    model: Model,
    lengths: tuple[int, ...],
    degrees: tuple[int, int],
    share: float,
    recompute: tuple[str, ...],
    kv_block_tokens: int,
    sequences: int,
) -> None:
    assert_equal_work(
        model,
        lengths,
        stages=degrees[0],
        virtual_stages=degrees[1],
        share=share,
        recompute=recompute,
        kv_block_tokens=kv_block_tokens,
        sequences=sequences,
        msp=True,
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_blocks_and_tiles_change_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes, so that the loops over prefix blocks and loss tiles really go round."""
    monkeypatch.setattr("sppo.model.mixers.kv_cache.PREFIX_BLOCK_TOKENS", 7)
    monkeypatch.setattr("sppo.model.loss.LOSS_TILE_TOKENS", 5)
    for kv_block_tokens in (0, 8):
        assert_equal_work(
            model,
            (23, 16, 9),
            stages=2,
            virtual_stages=2,
            share=0.6,
            kv_block_tokens=kv_block_tokens,
        )


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_recomputation_gives_the_same_gradients(model: Model, share: float) -> None:
    """Every recompute level, and each saved tensor alone, without and with offload of the rest."""
    lean = [name for name in RECOMPUTE_FULL if name in block_of(model).saved_tensors_by_name]
    for recompute in (*block_of(model).recompute_levels, *((name,) for name in lean)):
        assert_equal_work(
            model,
            (23, 16, 9),
            stages=2,
            virtual_stages=1,
            share=share,
            recompute=recompute,
        )


def test_offload_changes_no_bit() -> None:
    model = MODELS[0]
    weights = initial_weights(model, 3, torch.float32)
    tokens = torch.randint(0, model.vocabulary, (1, 121))
    outcomes = [
        run_pipeline(
            make_plan(model, (50, 40, 30), stages=2, share=share, element_bytes=4),
            weights,
            tokens,
            torch.float32,
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert outcomes[1].counters[0].offloaded_bytes > 0
    assert outcomes[2].counters[0].offloaded_bytes > outcomes[1].counters[0].offloaded_bytes
    for outcome in outcomes[1:]:
        assert outcome.loss == outcomes[0].loss
        for name, gradient in outcomes[0].gradients.items():
            assert torch.equal(outcome.gradients[name], gradient), name


@settings(max_examples=12, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    lengths=LENGTHS,
    degrees=st.sampled_from(((2, 1, 1), (4, 1, 1), (2, 2, 1), (2, 2, 2), (4, 4, 1), (2, 3, 1))),
    share=st.sampled_from((0.0, 0.3, 1.0)),
    recompute=st.sampled_from(block_of(MODELS[0]).recompute_levels),
    kv_block_tokens=st.sampled_from((0, 0, 8)),
    sequences=st.integers(1, 3),
    msp=st.booleans(),
)
def test_shared_stages_equal_plain_torch(
    model: Model,
    lengths: tuple[int, ...],
    degrees: tuple[int, int, int],
    share: float,
    recompute: tuple[str, ...],
    kv_block_tokens: int,
    sequences: int,
    msp: bool,
) -> None:
    """SP x PP x chunks a stage; as many KV heads as the ranks of a stage need."""
    shards, stages, virtual_stages = degrees
    model = replace(model, kv_heads=max(model.kv_heads, shards), vocabulary=60)
    msp = msp and stages > 1
    assert_equal_work(
        model,
        tuple(shards * length for length in lengths),
        stages=stages,
        virtual_stages=virtual_stages,
        shards=shards,
        share=share,
        recompute=recompute,
        kv_block_tokens=kv_block_tokens,
        sequences=sequences,
        msp=msp,
    )

"""The description of a block holds together."""

from __future__ import annotations

import math

import pytest

from sppo.config.models import MODELS
from sppo.plan.blocks import block_of
from sppo.plan.blocks.temporaries import Placement
from sppo.plan.weights import parameter_count

NAMES = ["gpt-tiny", "llama-tiny", "llama-8b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_tensor_is_recomputed_from_earlier_ones_and_read_at_a_known_step(name: str) -> None:
    block = block_of(MODELS[name])
    order = list(block.saved_tensors_by_name)
    for tensor in block.saved_tensors:
        assert all(
            order.index(source) < order.index(tensor.name) for source in tensor.recomputed_from
        )
        assert (tensor.recipe is None) == (not tensor.recomputed_from)
        assert (tensor.recipe == "linear") == (tensor.dense_flops > 0)
        assert tensor.name in block.backward_spans


@pytest.mark.parametrize("name", NAMES)
def test_every_level_of_recomputation_has_recipes(name: str) -> None:
    block = block_of(MODELS[name])
    cheap, mlp, lean, full = (
        [tensor for tensor in block.saved_tensors if tensor.name in level]
        for level in block.recompute_levels[1:]
    )
    assert all(tensor.recipe in ("norm", "activation") for tensor in cheap)
    assert {tensor.name for tensor in mlp} < {tensor.name for tensor in lean}
    assert all(tensor.recipe not in (None, "mixer") for tensor in lean)
    assert {tensor.name for tensor in full} == {
        tensor.name for tensor in block.saved_tensors if tensor.recipe
    }


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_has_a_step_with_known_bytes(name: str) -> None:
    model = MODELS[name]
    block = block_of(model)
    placement = Placement(
        model=model, element_bytes=2, shards=2, head=False, hosted=True, clones=True
    )
    waiting, temporaries, keys = block.recomputing(placement)
    steps = {span.first for span in block.backward_spans.values()}
    assert steps <= waiting.keys()
    assert set(temporaries) <= set(block.recompute_full)
    assert set(keys) <= set(temporaries)
    assert {at.step for at in block.backward_walk(placement)} == set(waiting)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_stores_every_weight_once(name: str) -> None:
    model = MODELS[name]
    block = block_of(model)
    stored = [source for sources in block.stored_weights.values() for source in sources]
    assert sorted(stored) == sorted(block.weights)
    for weight in block.weights.values():
        divided = 1 if weight.sharded_axis is None else 2
        assert math.prod(weight.shape) == divided * math.prod(weight.shard_shape(2))


def test_by_hand() -> None:
    """gpt-tiny: 4 layers, hidden 256, 4 heads, MLP 1024, vocabulary 256, with biases."""
    model = MODELS["gpt-tiny"]
    block = block_of(model)
    matrices = 4 * 256 * 256 + 2 * 256 * 1024
    vectors = 4 * 256 + 4 * 256 + 1024 + 256
    assert parameter_count(model) == 4 * (matrices + vectors) + 2 * 256 * 256 + 2 * 256
    assert block.dense_flops_per_token == 2 * matrices
    assert block.mixer_flops(100, 10) == 4 * 256 * (10 * 100 + 55)
    assert block.state_bytes(element_bytes=2) == 2 * 256 * (2 + 4)

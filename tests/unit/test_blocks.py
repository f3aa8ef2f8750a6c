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
def test_a_unit_is_made_of_units_before_it_and_read_back_at_a_known_step(name: str) -> None:
    block = block_of(MODELS[name])
    order = list(block.saved_tensors_by_name)
    for unit in block.saved_tensors:
        assert all(order.index(source) < order.index(unit.name) for source in unit.recomputed_from)
        assert (unit.recipe is None) == (not unit.recomputed_from)
        assert (unit.recipe == "linear") == (unit.dense_flops > 0)
        assert unit.name in block.backward_spans


@pytest.mark.parametrize("name", NAMES)
def test_every_level_of_recomputation_has_recipes(name: str) -> None:
    block = block_of(MODELS[name])
    cheap, lean, full = (
        [block.saved_tensors_by_name[unit] for unit in level if unit in block.saved_tensors_by_name]
        for level in block.recompute_levels[1:]
    )
    assert all(unit.recipe in ("norm", "activation") for unit in cheap)
    assert all(unit.recipe not in (None, "mixer") for unit in lean)
    assert {unit.name for unit in full} == {
        unit.name for unit in block.saved_tensors if unit.recipe
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_is_made_again_has_a_step_with_known_bytes(name: str) -> None:
    model = MODELS[name]
    block = block_of(model)
    placement = Placement(
        model=model, element_bytes=2, shards=2, head=False, hosted=True, clones=True
    )
    waiting, making = block.recomputing(placement)
    steps = {span.first for span in block.backward_spans.values()}
    assert steps <= waiting.keys()
    assert set(making) <= set(block.recompute_full)
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

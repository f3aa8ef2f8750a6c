"""What DeepSpeed is asked to run, and what is refused before a process starts."""

from __future__ import annotations

import dataclasses

import pytest

from baselines.deepspeed.adapter import ADAPTER
from baselines.deepspeed.engine_config import bucket_elements, engine_config
from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.protocol import Unavailable
from sppo.config.models import MODELS
from sppo.plan.weights import parameter_count
from tests.unit.grid_checks import check_points, workload


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"sequence_parallel": 0}, "at least 1"),
        ({"zero_stage": 4}, "choose 0, 1, 2 or 3"),
        ({"checkpointing": "all"}, '"none" or "blocks"'),
        ({"checkpointed_layers": 2}, 'needs checkpointing="blocks"'),
        ({"checkpointing": "blocks", "checkpointed_layers": 0}, 'for 0 say "none"'),
        ({"tiled_mlp": -1}, "or 0 for an untiled MLP"),
    ],
)
def test_wrong_settings_name_the_cure(values, cure):
    with pytest.raises(ValueError, match=cure):
        DeepSpeedSettings(**({"sequence_parallel": 2} | values))


def test_one_sequence_goes_to_all_ranks():
    grid = ADAPTER.grid(workload(ranks=4))
    assert {settings.sequence_parallel for settings in grid} == {4}
    assert {settings.zero_stage for settings in grid} == {0, 1, 2, 3}
    counts = {settings.layers_to_checkpoint(MODELS["gpt-tiny"]) for settings in grid}
    assert counts == {0, 1, 2, 3, 4}


def test_more_sequences_allow_replicas():
    grid = ADAPTER.grid(workload(ranks=4, sequences=2))
    assert {settings.sequence_parallel for settings in grid} == {4, 2}


@pytest.mark.parametrize("sequences", [1, 2, 4])
def test_the_grid_is_distinct_allowed_and_json(sequences):
    check_points(ADAPTER, workload(ranks=4, sequences=sequences))


@pytest.mark.parametrize(
    ("work", "degree", "words"),
    [
        (workload(ranks=6), 4, "world_size .6. is not divisible"),
        (workload(ranks=4), 2, "1 sequences do not split over 2 replicas"),
        (workload(ranks=8), 8, "head count 4 is not divisible by SP size 8"),
        (workload("llama-8b", ranks=24), 24, "head count 32 is not divisible by SP size 24"),
        (workload("gpt-7b", ranks=64), 64, "head count 32 is not divisible by SP size 64"),
        (workload(tokens=4095), 2, "4095 tokens are not divisible by SP size 2"),
        (workload(dtype="float64"), 2, "not in float64"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(work, degree, words):
    with pytest.raises(Unavailable, match=words):
        ADAPTER.check(work, DeepSpeedSettings(sequence_parallel=degree))


def test_few_kv_heads_must_divide_the_degree():
    ADAPTER.check(workload("llama-tiny", ranks=4), DeepSpeedSettings(sequence_parallel=4))
    model = dataclasses.replace(MODELS["gpt-tiny"], hidden=384, heads=12, kv_heads=3)
    work = dataclasses.replace(workload(ranks=4), model=model)
    with pytest.raises(Unavailable, match="KV attention head count 3"):
        ADAPTER.check(work, DeepSpeedSettings(sequence_parallel=4))


def test_many_heads_may_split_unevenly():
    model = dataclasses.replace(MODELS["gpt-tiny"], hidden=192, heads=3, kv_heads=3)
    work = dataclasses.replace(workload(), model=model)
    ADAPTER.check(work, DeepSpeedSettings(sequence_parallel=2))


def test_more_checkpointed_layers_than_layers_are_refused():
    settings = DeepSpeedSettings(sequence_parallel=2, checkpointing="blocks", checkpointed_layers=5)
    with pytest.raises(Unavailable, match="5 of 4 layers"):
        ADAPTER.check(workload(), settings)


def test_describe_speaks_the_fields_words():
    settings = DeepSpeedSettings(sequence_parallel=2, checkpointing="blocks")
    assert ADAPTER.describe(settings) == "Ulysses 2, ZeRO-1, checkpoint all blocks"
    settings = DeepSpeedSettings(
        sequence_parallel=4,
        zero_stage=3,
        checkpointing="blocks",
        checkpointed_layers=2,
        tiled_mlp=4,
        tiled_loss=True,
    )
    words = "Ulysses 4, ZeRO-3, checkpoint 2 blocks, tiled MLP 4, tiled loss"
    assert ADAPTER.describe(settings) == words


def test_buckets_follow_the_model():
    tiny, large = MODELS["gpt-tiny"], MODELS["gpt-7b"]
    assert bucket_elements(tiny) < parameter_count(tiny)
    settings = DeepSpeedSettings(sequence_parallel=2, zero_stage=3)
    zero = engine_config(workload(), settings, 1)["zero_optimization"]
    assert zero["reduce_bucket_size"] == bucket_elements(tiny)
    # Vectors stay whole, every matrix is partitioned, as with the defaults in a large model.
    threshold = zero["stage3_param_persistence_threshold"]
    assert tiny.ffn < threshold < tiny.hidden**2
    assert 100_000 < bucket_elements(large) < 500_000_000


def test_versions_are_known_without_an_import():
    assert set(ADAPTER.versions()) == {"deepspeed", "torch"}

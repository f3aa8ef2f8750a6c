"""What DeepSpeed is asked to run, and what is refused before a process starts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from baselines.deepspeed import ours
from baselines.deepspeed.adapter import ADAPTER
from baselines.deepspeed.engine_config import bucket_elements, engine_config
from baselines.deepspeed.settings import DeepSpeedSettings, of_flags
from baselines.protocol import Context, Unavailable, check_emulated
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.search import leanest
from sppo.config.models import MODELS
from sppo.plan.weights import parameter_count
from tests.unit.grid_checks import check_points, workload

OURS = ours.ADAPTER
ON_CUDA = workload(device="cuda", dtype="bfloat16")
CPU_RANK = Context(rank=0, ranks=2, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"sequence_parallel": 0}, "at least 1"),
        ({"zero_stage": 4}, "choose 0, 1, 2 or 3"),
        ({"checkpointing": "all"}, "one of none, split, save-attention, blocks"),
        ({"checkpointed_layers": 2}, "needs a checkpointing other than none"),
        ({"checkpointing": "blocks", "checkpointed_layers": 0}, 'for 0 say "none"'),
        ({"tiled_mlp": -1}, "or 0 for an untiled MLP"),
        ({"zero_stage": 0, "overlap_comm": True}, "ignores overlap_comm with ZeRO-0"),
        ({"host_hidden_states": True}, "full or save-attention, not none"),
        ({"host_hidden_states": True, "checkpointing": "split"}, "not split"),
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


def test_the_grid_begins_with_the_least_repeated_work():
    model = MODELS["gpt-tiny"]
    grid = ADAPTER.grid(workload(ranks=4))
    assert len(grid) == 70
    first = dict.fromkeys((s.checkpointing, s.layers_to_checkpoint(model)) for s in grid)
    saved = [("save-attention", count) for count in range(1, 5)]
    blocks = [("blocks", count) for count in range(1, 5)]
    expected = [("none", 0), saved[0], blocks[0], ("split", 4), saved[1], saved[2], blocks[1]]
    assert list(first) == [*expected, saved[3], blocks[2], blocks[3]]
    for kind in first:
        points = [s for s in grid if (s.checkpointing, s.layers_to_checkpoint(model)) == kind]
        for tiled in (False, True):
            stages = [s.zero_stage for s in points if s.tiled_loss is tiled and not s.tiled_mlp]
            assert stages == ([] if tiled and kind in blocks[:3] else [0, 1, 2, 3])
    assert grid[-1] == DeepSpeedSettings(
        sequence_parallel=4, zero_stage=3, checkpointing="blocks", tiled_mlp=4, tiled_loss=True
    )


def test_without_ulysses_there_is_nothing_to_split():
    grid = ADAPTER.grid(workload(sequences=2))
    without = {settings.checkpointing for settings in grid if settings.sequence_parallel == 1}
    assert without == {"none", "save-attention", "blocks"}


def test_on_cuda_zero_1_and_2_overlap_or_save_the_bucket():
    grid = ADAPTER.grid(ON_CUDA)
    plain = [settings for settings in grid if not settings.host_hidden_states]
    none = [settings for settings in plain if settings.checkpointing == "none"]
    choices = list(dict.fromkeys((s.zero_stage, s.overlap_comm) for s in none))
    assert choices == [(0, None), (1, True), (1, None), (2, True), (2, None), (3, None)]
    assert len(plain) == 105
    zero = engine_config(ON_CUDA, grid[2], 1)["zero_optimization"]
    assert zero["overlap_comm"] is True


def test_on_cuda_hidden_states_are_hosted_too():
    grid = ADAPTER.grid(ON_CUDA)
    hosted = [settings for settings in grid if settings.host_hidden_states]
    assert len(hosted) == 18
    assert {settings.checkpointing for settings in hosted} == {"save-attention", "blocks"}
    assert all(s.tiled_loss and s.checkpointed_layers is None for s in hosted)
    assert grid[-1] == hosted[-1], "the leanest is last"
    check_points(ADAPTER, ON_CUDA)
    assert not any(settings.host_hidden_states for settings in ADAPTER.grid(workload()))


def test_emulated_searches_leave_out_what_emulation_cannot_run(tmp_path):
    hosted = ADAPTER.grid(ON_CUDA)[-1]
    with pytest.raises(Unavailable, match="CUDA alone"):
        check_emulated(ADAPTER, ON_CUDA, hosted)
    (settings,) = leanest(ADAPTER, ON_CUDA)
    check_emulated(ADAPTER, ON_CUDA, settings)
    assert settings == dataclasses.replace(hosted, host_hidden_states=None, offload_optimizer=None)
    cluster = dataclasses.replace(ON_CUDA.cluster, hardware="a100-80g")
    profiled = dataclasses.replace(ON_CUDA, cluster=cluster)
    emulator = Emulator(parent=tmp_path, time_limit_seconds=1.0)
    refused = emulator.refusal(profiled, "deepspeed", hosted)
    assert (refused.status, refused.fits) == ("unavailable", None)


def test_hosted_checkpoints_are_a_system_of_their_own():
    work = workload()
    check_points(OURS, work)
    assert {settings.checkpointing for settings in OURS.grid(work)} == {"save-attention", "blocks"}
    assert (len(OURS.grid(work)), len(OURS.grid(ON_CUDA))) == (18, 27)
    assert ours.of_flags({}, work).checkpointing == "save-attention"
    settings = OURS.grid(work)[0]
    assert (
        OURS.describe(settings) == "Ulysses 2, ZeRO-0, checkpoint all blocks but attention, hosted"
    )
    for values in ({"checkpointing": "split"}, {"checkpointing": "none"}):
        with pytest.raises(Unavailable, match="hosts checkpoints of whole blocks itself"):
            OURS.check(work, dataclasses.replace(settings, **values))


def test_deepspeeds_own_hosted_hidden_states_need_cuda():
    settings = DeepSpeedSettings(
        sequence_parallel=2, checkpointing="blocks", host_hidden_states=True
    )
    ADAPTER.check(ON_CUDA, settings)
    words = "Ulysses 2, ZeRO-1, checkpoint all blocks, hidden states on the host"
    assert ADAPTER.describe(settings) == f"{words} (CheckpointHiddenStatesOffload)"
    with pytest.raises(Unavailable, match=r"CheckpointHiddenStatesOffload.* CUDA alone"):
        ADAPTER.check(workload(), settings)
    with pytest.raises(Unavailable, match=r"CheckpointHiddenStatesOffload.* CUDA alone"):
        ADAPTER.prepare(ON_CUDA, settings, {}, CPU_RANK)
    gpu_rank = dataclasses.replace(CPU_RANK, device=torch.device("cuda"))
    with pytest.raises(Unavailable, match="with CUDA DeepSpeed hosts checkpoints itself"):
        OURS.prepare(ON_CUDA, dataclasses.replace(settings, host_hidden_states=None), {}, gpu_rank)


@pytest.mark.parametrize(
    ("words", "checkpointing", "count"),
    [
        ("none", "none", None),
        ("full", "blocks", None),
        ("8", "blocks", 8),
        ("full:8", "blocks", 8),
        ("save-attention", "save-attention", None),
        ("save-attention:8", "save-attention", 8),
        ("split:2", "split", 2),
    ],
)
def test_recompute_takes_the_words_of_all_systems(words, checkpointing, count):
    settings = of_flags({"recompute": words}, workload())
    assert (settings.checkpointing, settings.checkpointed_layers) == (checkpointing, count)


def test_overlap_is_on_off_or_the_default():
    for name, expected in (("overlap_comm", True), ("no_overlap_comm", False), ("zero", None)):
        assert (
            of_flags(
                {"zero": 3} | ({} if expected is None else {name: True}), workload()
            ).overlap_comm
            == expected
        )
    with pytest.raises(ValueError, match="give one of them"):
        of_flags({"overlap_comm": True, "no_overlap_comm": True}, workload())


@pytest.mark.parametrize("words", ["blocks", "split:", "split:two", "8:8", "save-messages"])
def test_another_word_is_refused(words):
    with pytest.raises(ValueError, match="DeepSpeed takes none, full, save-attention, split or"):
        of_flags({"recompute": words}, workload())


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
        sequence_parallel=2, checkpointing="split", checkpointed_layers=1, overlap_comm=False
    )
    words = "Ulysses 2, ZeRO-1, checkpoint 1 block before and behind attention, overlap_comm off"
    assert ADAPTER.describe(settings) == words
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

"""What PyTorch native is asked to run, and what is refused before a process starts."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest

from baselines.native.adapter import ADAPTER
from baselines.native.place import Place, group_ranks
from baselines.native.settings import NativeSettings
from baselines.protocol import Unavailable
from benchmarks.emulation.search import layouts, leanest
from benchmarks.job import throw_away_tokens
from sppo.config.models import MODELS
from tests.unit.grid_checks import check_points, workload


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        ({"sequence_parallel": 0}, "at least 1"),
        ({"checkpointing": "blocks"}, "one of none, save-messages, save-attention, full"),
        ({"checkpointed_layers": 2}, "needs a checkpointing other than none"),
        ({"checkpointing": "full", "checkpointed_layers": 0}, 'for 0 say "none"'),
        ({"context_parallel": 0}, "1 is no ring"),
        ({"context_parallel": 2, "checkpointing": "save-messages"}, ": save-attention"),
    ],
)
def test_wrong_settings_name_the_cure(values, cure):
    with pytest.raises(ValueError, match=cure):
        NativeSettings(**({"sequence_parallel": 2} | values))


def test_the_grid_begins_with_no_recomputation_and_ends_with_the_leanest():
    work = workload(ranks=4, sequences=2)
    (whole, halves) = layouts(ADAPTER, work)
    assert [points[0].sequence_parallel for points in (whole, halves)] == [4, 2]
    for points in (whole, halves):
        assert points[0] == dataclasses.replace(points[-1], **FASTEST)
        kinds = [point.checkpointing for point in points]
        assert list(dict.fromkeys(kinds)) == ["none", "save-messages", "save-attention", "full"]
        for kind in kinds:
            same = [point for point in points if point.checkpointing == kind]
            recomputed = [point.layers_to_checkpoint(work.model) for point in same]
            assert recomputed == sorted(recomputed)
    assert [point.checkpointing for point in leanest(ADAPTER, work)] == ["full", "full"]


FASTEST = {"checkpointing": "none", "reshard_after_forward": False}


def test_without_ulysses_there_are_no_messages_to_save():
    grid = ADAPTER.grid(workload(sequences=2))
    saved = {point.checkpointing for point in grid if point.sequence_parallel == 1}
    assert saved == {"none", "save-attention", "full"}


def test_a_ring_takes_what_the_heads_leave():
    work = workload("gpt-7b", ranks=64, tokens=2**21, dtype="bfloat16")
    degrees = {(point.sequence_parallel, point.context_parallel) for point in ADAPTER.grid(work)}
    assert degrees == {(32, 2)}
    for settings in ADAPTER.grid(work):
        ADAPTER.check(work, settings)
        assert throw_away_tokens(work) % (2 * settings.ranks_of_a_sequence) == 0
    roles = ADAPTER.roles(work, ADAPTER.grid(work)[0])
    assert [(role.rank, role.ranks) for role in roles] == [(0, 32), (32, 32)]


@pytest.mark.parametrize(("ulysses", "ring"), [(1, 1), (4, 1), (1, 4), (2, 2), (3, 2), (4, 2)])
def test_every_token_has_one_rank_and_rings_have_equal_work(ulysses, ring):
    settings = NativeSettings(sequence_parallel=ulysses, context_parallel=ring)
    tokens = 4 * ulysses * ring
    work_by_ring: dict[int, int] = {}
    seen: list[int] = []
    for rank in range(ulysses * ring):
        place = Place(settings=settings, rank=rank)
        own = [position for run in place.positions(tokens) for position in run]
        assert len(own) == 4
        seen += own
        work_by_ring[place.ring_rank] = work_by_ring.get(place.ring_rank, 0) + sum(own)
    assert sorted(seen) == list(range(tokens))
    assert len(set(work_by_ring.values())) == 1
    ulysses_groups, rings = group_ranks(settings, 2 * ulysses * ring)
    for groups, size in ((ulysses_groups, ulysses), (rings, ring)):
        assert sorted(chain.from_iterable(groups)) == list(range(2 * ulysses * ring))
        assert {len(group) for group in groups} == {size}
    for group in rings:
        places = [Place(settings=settings, rank=rank) for rank in group]
        assert [place.ring_rank for place in places] == list(range(ring))
        assert len({place.replica for place in places}) == 1


@pytest.mark.parametrize("sequences", [1, 2, 4])
def test_the_grid_is_distinct_allowed_and_json(sequences):
    check_points(ADAPTER, workload(ranks=4, sequences=sequences))


@pytest.mark.parametrize(
    ("work", "degree", "words"),
    [
        (workload(ranks=6), 4, "Ulysses 4 does not divide 6 ranks"),
        (workload(ranks=4), 2, "1 sequences do not split over 2 replicas"),
        (workload(ranks=8), 8, "4 heads do not split over Ulysses 8"),
        (workload("gpt-7b", ranks=64), 64, "32 heads do not split over Ulysses 64"),
        (workload(tokens=4095), 2, "4095 tokens do not split over Ulysses 2"),
        (workload(dtype="float64", device="cuda"), 2, "no float64 on CUDA"),
        (workload("gpt-7b", ranks=64), 64, "--cp adds a ring"),
    ],
)
def test_what_cannot_run_is_refused(work, degree, words):
    with pytest.raises(Unavailable, match=words):
        ADAPTER.check(work, NativeSettings(sequence_parallel=degree))


def test_a_ring_needs_chunks_and_bfloat16_on_cuda():
    settings = NativeSettings(sequence_parallel=1, context_parallel=2)
    with pytest.raises(Unavailable, match="4098 tokens do not split into 2 chunks for each of 2"):
        ADAPTER.check(workload(tokens=4098), settings)
    with pytest.raises(Unavailable, match="Ulysses 1 x ring 2 does not divide 3 ranks"):
        ADAPTER.check(workload(ranks=3), settings)
    with pytest.raises(Unavailable, match="bfloat16 only"):
        ADAPTER.check(workload(device="cuda"), settings)
    ADAPTER.check(workload(device="cuda", dtype="bfloat16"), settings)


def test_few_kv_heads_must_divide_the_degree():
    ADAPTER.check(workload("llama-tiny", ranks=4), NativeSettings(sequence_parallel=4))
    model = dataclasses.replace(MODELS["gpt-tiny"], hidden=384, heads=12, kv_heads=3)
    work = dataclasses.replace(workload(ranks=4), model=model)
    with pytest.raises(Unavailable, match="3 KV heads neither split over Ulysses 4"):
        ADAPTER.check(work, NativeSettings(sequence_parallel=4))


def test_more_checkpointed_layers_than_layers_are_refused():
    settings = NativeSettings(sequence_parallel=2, checkpointing="full", checkpointed_layers=5)
    with pytest.raises(Unavailable, match="5 of 4 layers"):
        ADAPTER.check(workload(), settings)


def test_describe_speaks_the_fields_words():
    settings = NativeSettings(sequence_parallel=2, checkpointing="save-attention")
    assert ADAPTER.describe(settings) == "Ulysses 2, FSDP2, checkpoint all blocks but attention"
    settings = NativeSettings(
        sequence_parallel=4,
        reshard_after_forward=False,
        checkpointing="save-messages",
        checkpointed_layers=2,
    )
    words = "Ulysses 4, FSDP2 without reshard, checkpoint 2 blocks but attention and all-to-alls"
    assert ADAPTER.describe(settings) == words


def test_versions_are_known_without_an_import():
    assert set(ADAPTER.versions()) == {"torch"}

"""What PyTorch native is asked to run, and what is refused before a process starts."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest

from baselines.native import adapter
from baselines.native.adapter import ADAPTER
from baselines.native.place import Place, group_ranks
from baselines.native.settings import NativeSettings, of_flags
from baselines.protocol import Unavailable, check_emulated, measured_grid
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
        ({"tensor_parallel": 0}, "1 is no TP"),
        ({"context_parallel": 2, "checkpointing": "save-messages"}, ": save-attention"),
    ],
)
def test_wrong_settings_name_the_cure(values, cure):
    with pytest.raises(ValueError, match=cure):
        NativeSettings(**({"sequence_parallel": 2} | values))


def test_the_grid_begins_with_no_recomputation_and_ends_with_the_leanest():
    work = workload(ranks=4, sequences=2)
    (whole, halves, *with_tensor) = layouts(ADAPTER, work)
    assert [points[0].sequence_parallel for points in (whole, halves)] == [4, 2]
    for points in (whole, halves, *with_tensor):
        assert points[0] == dataclasses.replace(points[-1], **FASTEST)
        kinds = [point.checkpointing for point in points]
        assert list(dict.fromkeys(kinds)) == [kind for kind in CHEAPEST_FIRST if kind in kinds]
        for kind in kinds:
            same = [point for point in points if point.checkpointing == kind]
            recomputed = [point.layers_to_checkpoint(work.model) for point in same]
            assert recomputed == sorted(recomputed)
    for points in (whole, halves):
        assert {point.checkpointing for point in points} == set(CHEAPEST_FIRST)
    assert {point.checkpointing for point in leanest(ADAPTER, work)} == {"full"}


def test_tensor_parallelism_comes_last_and_stays_in_a_node():
    work = workload("gpt-7b", ranks=32, tokens=2**20, dtype="bfloat16")
    work = dataclasses.replace(work, cluster=dataclasses.replace(work.cluster, nodes=4, **NODE))
    (ulysses, tensor) = layouts(ADAPTER, work)
    assert {point.tensor_parallel for point in ulysses} == {1}
    degrees = {(p.tensor_parallel, p.sequence_parallel, p.context_parallel) for p in tensor}
    assert degrees == {(8, 4, 1)}
    assert tensor[1].checkpointing == "save-messages"


def test_a_tensor_degree_takes_whole_kv_heads():
    grid = ADAPTER.grid(workload("llama-tiny", ranks=4))
    kv_heads = MODELS["llama-tiny"].kv_heads
    assert {point.tensor_parallel for point in grid} == {1, kv_heads}


CHEAPEST_FIRST = ("none", "save-messages", "save-attention", "full")
NODE = {"ranks_per_node": 8}
FASTEST = {"checkpointing": "none", "reshard_after_forward": False}


def test_without_ulysses_there_are_no_messages_to_save():
    grid = ADAPTER.grid(workload(sequences=2))
    saved = {point.checkpointing for point in grid if point.sequence_parallel == 1}
    assert saved == {"none", "save-attention", "full"}


def test_a_ring_takes_what_the_heads_leave():
    work = workload("gpt-7b", ranks=64, tokens=2**21, dtype="bfloat16")
    with_ring = [point for point in ADAPTER.grid(work) if point.tensor_parallel == 1]
    degrees = {(point.sequence_parallel, point.context_parallel) for point in with_ring}
    assert degrees == {(32, 2)}
    for settings in ADAPTER.grid(work):
        ADAPTER.check(work, settings)
        assert throw_away_tokens(work) % (2 * settings.ranks_of_a_sequence) == 0
    roles = ADAPTER.roles(work, ADAPTER.grid(work)[0])
    assert [(role.rank, role.ranks) for role in roles] == [(0, 32), (32, 32)]


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize(("ulysses", "ring"), [(1, 1), (4, 1), (1, 4), (2, 2), (3, 2), (4, 2)])
def test_every_token_has_one_rank_and_rings_have_equal_work(ulysses, ring, tensor):
    settings = NativeSettings(
        sequence_parallel=ulysses, context_parallel=ring, tensor_parallel=tensor
    )
    tokens = 4 * ulysses * ring
    work_by_ring: dict[int, int] = {}
    seen: list[int] = []
    for rank in range(settings.ranks_of_a_sequence):
        place = Place(settings=settings, rank=rank)
        own = [position for run in place.positions(tokens) for position in run]
        assert len(own) == 4
        seen += own
        work_by_ring[place.ring_rank] = work_by_ring.get(place.ring_rank, 0) + sum(own)
    assert sorted(seen) == sorted(tensor * list(range(tokens)))
    assert len(set(work_by_ring.values())) == 1
    ranks = 2 * settings.ranks_of_a_sequence
    groups = group_ranks(settings, ranks)
    kinds = (
        (groups.tensor, tensor),
        (groups.ulysses, ulysses),
        (groups.ring, ring),
        (groups.shards, ranks // tensor),
    )
    for groups_of_kind, size in kinds:
        assert sorted(chain.from_iterable(groups_of_kind)) == list(range(ranks))
        assert {len(group) for group in groups_of_kind} == {size}
    for group in groups.ring:
        places = [Place(settings=settings, rank=rank) for rank in group]
        assert [place.ring_rank for place in places] == list(range(ring))
        assert len({place.replica for place in places}) == 1
    for group in groups.tensor:
        runs = [Place(settings=settings, rank=rank).positions(tokens) for rank in group]
        assert runs == [runs[0]] * tensor


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


@pytest.mark.parametrize(
    ("model", "tensor", "words"),
    [
        ({}, 3, "TP3 x Ulysses 1 does not divide 4 ranks"),
        ({"heads": 6, "kv_heads": 6, "hidden": 384}, 4, "6 heads do not split over TP 4: torchtit"),
        ({"kv_heads": 2}, 4, "2 KV heads do not split over TP 4: torchtitan's recipe"),
        ({"ffn": 1023}, 2, "1023 MLP columns do not split over TP 2: this row"),
        ({"vocabulary": 255}, 4, "255 words do not split over TP 4: this row"),
    ],
)
def test_what_tensor_parallelism_cannot_split_is_refused(model, tensor, words):
    work = workload(ranks=4, sequences=4)
    work = dataclasses.replace(work, model=dataclasses.replace(work.model, **model))
    with pytest.raises(Unavailable, match=words) as refusal:
        ADAPTER.check(work, NativeSettings(sequence_parallel=1, tensor_parallel=tensor))
    assert "\n" not in str(refusal.value)


def test_tensor_and_ulysses_share_heads_and_tokens():
    settings = NativeSettings(sequence_parallel=4, tensor_parallel=2)
    with pytest.raises(Unavailable, match="2 heads of TP 2 do not split over Ulysses 4"):
        ADAPTER.check(workload(ranks=8), settings)
    with pytest.raises(Unavailable, match="1023 tokens of a rank do not split over TP 2: torch's"):
        ADAPTER.check(workload(ranks=8, tokens=4092), settings)


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


def test_describe_names_the_tensor_degree():
    settings = NativeSettings(
        sequence_parallel=4, context_parallel=2, tensor_parallel=8, checkpointing="full"
    )
    words = "TP8 x Ulysses 4 x ring 2, FSDP2, checkpoint all blocks"
    assert ADAPTER.describe(settings) == words
    settings = NativeSettings(sequence_parallel=4, tensor_parallel=8, checkpointing="save-messages")
    assert ADAPTER.describe(settings).endswith("attention, all-to-alls and reduce-scatters")


def test_versions_are_known_without_an_import():
    assert set(ADAPTER.versions()) == {"torch"}


def test_compiled_blocks_are_for_real_ranks_with_ulysses_alone(monkeypatch):
    compiled = NativeSettings(sequence_parallel=2, compile=True)
    ADAPTER.check(workload(), compiled)
    assert ADAPTER.describe(compiled) == "Ulysses 2, FSDP2, compiled blocks"
    assert of_flags({"compile": True}, workload()) == compiled
    with pytest.raises(Unavailable, match="compile is not emulated"):
        check_emulated(ADAPTER, workload(), compiled)
    check_emulated(ADAPTER, workload(), NativeSettings(sequence_parallel=2))
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="needs Triton, which is not installed"):
        ADAPTER.check(workload(device="cuda", dtype="bfloat16"), compiled)
    for degree in ("tensor_parallel", "context_parallel"):
        with pytest.raises(ValueError, match="tried with Ulysses alone"):
            NativeSettings(sequence_parallel=1, compile=True, **{degree: 2})
    assert not any(point.compile for point in ADAPTER.grid(workload(device="cuda")))


def test_compiled_points_are_measured_on_cuda_alone():
    """No emulation counts compiled kernels, so the grid of the searches has none."""
    on_cpu = workload(ranks=4)
    assert measured_grid(ADAPTER, on_cpu) == ADAPTER.grid(on_cpu)
    cluster = dataclasses.replace(on_cpu.cluster, device="cuda")
    on_cuda = dataclasses.replace(on_cpu, cluster=cluster, dtype="bfloat16")
    grid = ADAPTER.grid(on_cuda)
    further = measured_grid(ADAPTER, on_cuda)[len(grid) :]
    assert {point.compile for point in grid} == {None}
    plain = [dataclasses.replace(point, compile=None) for point in further]
    assert all(point.compile for point in further)
    assert plain == [p for p in grid if p.tensor_parallel == p.context_parallel == 1]
    assert plain

"""Megatron's settings, grid and refusals: no ranks, no library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from baselines.megatron import te_rules
from baselines.megatron.adapter import ADAPTER, MegatronAdapter
from baselines.megatron.ours import ADAPTER as OURS
from baselines.megatron.settings import MegatronSettings, microbatch_group
from baselines.protocol import Misfit, Unavailable
from benchmarks import workloads
from benchmarks.rows import known_grids
from benchmarks.rows.assign import grid_assignments
from sppo.config.models import MODELS, Model
from sppo.config.workload import Cluster, Workload

TINY = MODELS["gpt-tiny"]


def workload_of(
    model: Model = TINY, *, ranks: int = 2, tokens: int = 4096, sequences: int = 1, **more: Any
) -> Workload:
    cluster = Cluster(hardware="test", device="cpu", nodes=1, ranks_per_node=ranks)
    return Workload(
        name="test",
        model=model,
        cluster=cluster,
        sequence_tokens=tokens,
        sequences_per_step=sequences,
        **more,
    )


def test_two_ranks_have_a_grid_of_a_sensible_size_without_repeats() -> None:
    grid = ADAPTER.grid(workload_of())
    assert len(grid) == 30
    assert len(set(grid)) == len(grid)
    assert grid[0].recompute == "none"
    assert grid[-1].recompute == "full"


def test_the_grid_has_every_layout_and_every_recompute_depth() -> None:
    words = {ADAPTER.describe(point) for point in ADAPTER.grid(workload_of())}
    assert {
        "TP2 SP, no recompute",
        "TP2, full recompute",
        "TP2 SP, recompute layernorm",
        "TP2 SP, recompute mlp",
        "TP2 SP, recompute mlp+layernorm",
        "TP2 SP, recompute 1 layer a stage",
        "TP2 SP, recompute 3 layers a stage",
        "PP2, no recompute",
        "PP2, recompute 1 layer a stage",
        "CP2 ZeRO-1, no recompute",
        "CP2 ZeRO-1, full recompute",
    } <= words
    assert "PP2, recompute 2 layers a stage" not in words


def test_one_sequence_a_step_leaves_no_data_parallelism() -> None:
    assert all(point.model_ranks == 2 for point in ADAPTER.grid(workload_of()))
    assert any(point.model_ranks == 1 for point in ADAPTER.grid(workload_of(sequences=2)))


@pytest.mark.parametrize("adapter", [ADAPTER, OURS], ids=lambda adapter: adapter.name)
@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_every_point_of_a_grid_passes_the_check(ranks: int, adapter: MegatronAdapter) -> None:
    workload = workload_of(MODELS["llama-8b"], ranks=ranks, sequences=4)
    grid = adapter.grid(workload)
    assert len({adapter.describe(point) for point in grid}) == len(grid) > 0
    for point in grid:
        adapter.check(workload, point)


def test_a_grid_combines_context_and_tensor_parallelism() -> None:
    words = {ADAPTER.describe(point) for point in ADAPTER.grid(workload_of(ranks=4))}
    assert {"TP2 CP2 SP ZeRO-1, no recompute", "TP2 PP2 SP, full recompute"} <= words


def test_model_chunks_are_in_the_grid_where_the_sequences_fill_the_pipeline() -> None:
    def chunks(sequences: int) -> list[int]:
        grid = ADAPTER.grid(workload_of(MODELS["gpt-7b"], ranks=4, sequences=sequences))
        whole = [point for point in grid if point.pipeline_parallel == 4]
        return [point.chunks for point in whole if point.recompute == "full"]

    assert chunks(1) == [1]
    assert chunks(4) == [8, 4, 2, 1], "the least idle time first"
    assert chunks(3) == [1], "fewer than the stages"
    assert chunks(6) == [8, 4, 2, 1], "4 does not divide 6: one group of 6"


@pytest.mark.parametrize(
    ("pipeline", "micro_batches", "group"),
    [(4, 8, 4), (2, 5, 3), (4, 6, 6), (4, 9, 5), (4, 13, 7), (4, 3, None)],
)
def test_groups_of_micro_batches_follow_megatrons_rule(
    pipeline: int, micro_batches: int, group: int | None
) -> None:
    assert microbatch_group(pipeline, micro_batches) == group


@pytest.mark.parametrize("adapter", [ADAPTER, OURS], ids=lambda adapter: adapter.name)
def test_counted_layers_are_ordered_by_their_share_of_the_model(adapter: MegatronAdapter) -> None:
    """One layer of PP4 is four of the model, one of PP4 VP2 is eight."""
    grid = adapter.grid(workload_of(MODELS["gpt-7b"], ranks=4, sequences=4))
    counted = [point for point in grid if point.recompute_layers]
    layers = [point.recompute_layers * point.chunks * point.pipeline_parallel for point in counted]
    assert len(set(layers)) > 2
    assert layers == sorted(layers)


@pytest.mark.parametrize("system", ["megatron", "deepspeed"])
def test_grids_measured_by_older_code_are_known_by_their_settings(system) -> None:
    workload = workloads.find("tiny-cpu")
    committed = known_grids.committed_grid(system, workload, workload.device_memory_bytes)
    assert committed.points
    assert committed.points.keys() <= {p.key for p in grid_assignments(system, workload)}


def test_only_ours_saves_attention() -> None:
    workload = workload_of()
    saved = MegatronSettings(tensor_parallel=2, recompute="save-attention")
    some = replace(saved, recompute_layers=2)
    OURS.check(workload, saved)
    assert OURS.describe(saved) == "TP2, recompute all but attention"
    assert OURS.describe(some) == "TP2, recompute all but attention in 2 layers a stage"
    assert {point.recompute for point in OURS.grid(workload)} == {"save-attention"}
    assert [point.recompute_layers for point in OURS.grid(workload)][::13] == [1, 0]
    with pytest.raises(Unavailable, match=r"megatron recomputes none, .*not save-attention"):
        ADAPTER.check(workload, saved)
    with pytest.raises(Unavailable, match="megatron-ours recomputes save-attention, not full"):
        OURS.check(workload, replace(saved, recompute="full"))
    assert "ours" in OURS.remark


def test_a_kv_head_may_be_on_several_ranks() -> None:
    workload = workload_of(MODELS["llama-8b"], ranks=16)
    ADAPTER.check(workload, MegatronSettings(tensor_parallel=16))
    assert any(point.tensor_parallel == 16 for point in ADAPTER.grid(workload))


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        (MegatronSettings(tensor_parallel=2), {"ranks": 3}, "does not divide 3 ranks"),
        (MegatronSettings(), {}, "do not divide over DP 2"),
        (MegatronSettings(tensor_parallel=8), {"ranks": 8}, "4 query heads"),
        (
            MegatronSettings(tensor_parallel=8),
            {"ranks": 8, "model": replace(MODELS["llama-8b"], hidden=6144, heads=48, kv_heads=12)},
            "12 KV heads",
        ),
        (MegatronSettings(pipeline_parallel=8), {"ranks": 8}, "4 layers"),
        (MegatronSettings(context_parallel=2), {"tokens": 4098}, "2 x CP = 4"),
        (
            MegatronSettings(tensor_parallel=2, sequence_parallel=True),
            {"tokens": 4097},
            "over TP 2",
        ),
        (
            MegatronSettings(pipeline_parallel=2, recompute="block", recompute_layers=3),
            {},
            "only 2 layers",
        ),
        (MegatronSettings(pipeline_parallel=2), {"dtype": "float64"}, "float32 and bfloat16"),
        (
            MegatronSettings(pipeline_parallel=4, virtual_pipeline=2),
            {"ranks": 4, "sequences": 3},
            "3 sequences a replica are fewer than PP 4 .*Megatron's rule",
        ),
        (
            MegatronSettings(pipeline_parallel=2, virtual_pipeline=4),
            {"sequences": 2},
            "4 layers do not divide over PP 2 x VP 4 .*Megatron's rule",
        ),
        (
            MegatronSettings(
                pipeline_parallel=2, virtual_pipeline=2, recompute="block", recompute_layers=2
            ),
            {"sequences": 2},
            "a chunk has only 1 layers",
        ),
        (
            MegatronSettings(context_parallel=2, cp_comm_type="p2p"),
            {},
            "cp_comm_type p2p is TransformerEngine's; megatron-core: Context parallelism is only",
        ),
        (
            MegatronSettings(tensor_parallel=2, cpu_offloading_layers=1),
            {},
            "cpu_offloading is TransformerEngine's; megatron-core: CPU Offloading is enabled when",
        ),
        (
            MegatronSettings(tensor_parallel=2, offload_modules=("core_attn",)),
            {},
            r"offload_modules \(.*, on CUDA streams\) is .*'s; megatron-core: TE CPU offload",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(
    settings: MegatronSettings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unavailable, match=words) as refusal:
        ADAPTER.check(workload_of(**changes), settings)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"cp_comm_type": "p2p"},
        {"cpu_offloading_layers": 1},
        {"offload_modules": ("core_attn",)},
    ],
)
def test_the_refusal_is_the_suites_where_transformer_engine_is_installed(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(te_rules, "find_spec", lambda name: name)
    words = "TransformerEngine's; this suite builds Megatron's local spec"
    with pytest.raises(Unavailable, match=words) as refusal:
        ADAPTER.check(workload_of(), MegatronSettings(context_parallel=2, **changes))
    assert "megatron-core" not in str(refusal.value)


def test_sequences_that_do_not_fill_a_pipeline_are_wrong_numbers() -> None:
    with pytest.raises(Misfit, match="1 sequences a replica"):
        ADAPTER.check(workload_of(), MegatronSettings(pipeline_parallel=2, virtual_pipeline=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor_parallel": 0},
        {"sequence_parallel": True},
        {"recompute": "most"},
        {"recompute": "block"},
        {"recompute_layers": 1},
        {"recompute": "modules"},
        {"recompute_modules": ("mlp",)},
        {"recompute": "modules", "recompute_modules": ("moe",)},
        {"recompute": "save-attention", "recompute_layers": -1},
        {"recompute": "full", "recompute_layers": 2},
        {"pipeline_parallel": 2, "virtual_pipeline": 1},
        {"virtual_pipeline": 2},
        {"cp_comm_type": "ring"},
        {"transformer_engine": False},
    ],
)
def test_settings_that_contradict_themselves_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"recompute|parallel|virtual|p2p|left out"):
        MegatronSettings(**fields)


def test_settings_are_plain_data() -> None:
    settings = MegatronSettings(
        tensor_parallel=2, recompute="modules", recompute_modules=("mlp", "core_attn")
    )
    fields = json.loads(json.dumps(asdict(settings)))
    fields["recompute_modules"] = tuple(fields["recompute_modules"])
    assert MegatronSettings(**fields) == settings


def test_a_model_chunk_is_named() -> None:
    settings = MegatronSettings(
        pipeline_parallel=2, virtual_pipeline=2, recompute="block", recompute_layers=1
    )
    assert ADAPTER.describe(settings) == "PP2 VP2, recompute 1 layer a chunk"


def test_same_layout_is_full_recompute_with_the_given_degrees() -> None:
    settings = ADAPTER.same_layout(workload_of(ranks=4), pipeline_parallel=2, tensor_parallel=2)
    assert ADAPTER.describe(settings) == "TP2 PP2 SP, full recompute"
    assert replace(settings, recompute="none").model_ranks == 4


def test_the_library_is_not_imported_to_choose_a_layout() -> None:
    program = (
        "import sys; from baselines.megatron.adapter import ADAPTER, MegatronSettings;"
        "ADAPTER.versions(); ADAPTER.describe(MegatronSettings());"
        "sys.exit('megatron.core' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_versions_name_the_library_and_torch() -> None:
    assert ADAPTER.versions().keys() == {"megatron-core", "torch"}

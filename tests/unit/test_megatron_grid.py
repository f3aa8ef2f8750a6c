"""Megatron's settings, grid and refusals: no ranks, no library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest

from baselines.megatron.adapter import ADAPTER
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import Unavailable
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
    assert 15 <= len(grid) <= 25
    assert len(set(grid)) == len(grid)
    assert grid[0].recompute == "none"
    assert grid[-1].recompute == "full"


def test_the_grid_has_every_layout_and_every_recompute_depth() -> None:
    words = {ADAPTER.describe(point) for point in ADAPTER.grid(workload_of())}
    assert {
        "TP2 SP, no recompute",
        "TP2, full recompute",
        "TP2 SP, recompute mlp",
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


@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_every_point_of_a_grid_passes_the_check(ranks: int) -> None:
    workload = workload_of(MODELS["llama-8b"], ranks=ranks, sequences=4)
    grid = ADAPTER.grid(workload)
    assert grid
    for point in grid:
        ADAPTER.check(workload, point)


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
    ],
)
def test_what_cannot_run_is_refused_with_the_reason(
    settings: MegatronSettings, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(Unavailable, match=words):
        ADAPTER.check(workload_of(**changes), settings)


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
        {"recompute": "modules", "recompute_modules": ("layernorm",)},
    ],
)
def test_settings_that_contradict_themselves_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"recompute|parallel"):
        MegatronSettings(**fields)


def test_settings_are_plain_data() -> None:
    settings = MegatronSettings(
        tensor_parallel=2, recompute="modules", recompute_modules=("mlp", "core_attn")
    )
    fields = json.loads(json.dumps(asdict(settings)))
    fields["recompute_modules"] = tuple(fields["recompute_modules"])
    assert MegatronSettings(**fields) == settings


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

"""The flags of `sppo-bench emulate megatron` and `emulate megatron-ours` as settings."""

from __future__ import annotations

from typing import Any

import pytest

from baselines.megatron.settings import MegatronSettings
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.planning.emulate import Emulate
from benchmarks.workloads import of_flags

WORKLOAD = of_flags(model="gpt-7b", seq="1M", gpus=32, hardware="a100-80g")


def settings(system: str, **given: Any) -> MegatronSettings:
    command = Emulate(system=system, model="gpt-7b", seq="1M", gpus=32, **given)
    made = command.settings(WORKLOAD)
    assert isinstance(made, MegatronSettings)
    return made


def test_model_chunks_and_modules() -> None:
    given = settings("megatron", pipeline_parallel=4, virtual_pipeline=2, recompute="mlp,layernorm")
    assert given == MegatronSettings(
        pipeline_parallel=4,
        virtual_pipeline=2,
        recompute="modules",
        recompute_modules=("mlp", "layernorm"),
        distributed_optimizer=True,
    )
    assert settings("megatron", virtual_pipeline=1).virtual_pipeline is None


def test_ours_saves_attention_without_a_flag() -> None:
    assert settings("megatron-ours", tensor_parallel=8, context_parallel=4) == MegatronSettings(
        tensor_parallel=8,
        context_parallel=4,
        sequence_parallel=True,
        recompute="save-attention",
        distributed_optimizer=True,
    )
    assert settings("megatron-ours", recompute="save-attention:4").recompute_layers == 4
    assert settings("megatron-ours", recompute="save-attention").recompute_layers == 0


def test_megatrons_own_ways_that_are_not_here() -> None:
    assert settings("megatron", cp_comm_type="a2a").cp_comm_type == "a2a"
    assert settings("megatron", offload="3").cpu_offloading_layers == 3
    modules = settings("megatron", offload="core_attn,attn_norm").offload_modules
    assert modules == ("core_attn", "attn_norm")


def test_transformer_engine_comes_with_its_system() -> None:
    given = settings("megatron-te", context_parallel=4, cp_comm_type="a2a", recompute="full")
    assert given == MegatronSettings(
        context_parallel=4,
        cp_comm_type="a2a",
        recompute="full",
        distributed_optimizer=True,
        transformer_engine=True,
    )
    assert settings("megatron").transformer_engine is None


@pytest.mark.parametrize(
    ("system", "given", "words"),
    [
        ("megatron", {"recompute": "save-attention"}, "no such option; megatron-ours adds it"),
        ("megatron", {"recompute": "save-attention:2"}, "no such option; megatron-ours adds it"),
        ("megatron-ours", {"recompute": "full"}, "megatron-ours takes save-attention"),
        ("megatron-ours", {"recompute": "save-attention:few"}, "or save-attention:2 for 2 layers"),
        ("megatron", {"virtual_pipeline": 2}, "needs a pipeline .Megatron's rule"),
        ("megatron", {"pipeline_parallel": 4, "virtual_pipeline": 0}, "at least 2 chunks a rank"),
        ("megatron", {"pipeline_parallel": 4, "virtual_pipeline": -3}, "at least 2 chunks a rank"),
        ("megatron", {"cp_comm_type": "ring"}, "cp_comm_type must be one of p2p, all_gather"),
        ("deepspeed", {"virtual_pipeline": 2}, "--virtual-pipeline: no setting of deepspeed"),
    ],
)
def test_wrong_flags_are_one_line(system: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        settings(system, **given)
    assert "\n" not in str(refusal.value)

"""Megatron-Core's real layer spec for TransformerEngine, on a stand-in for TransformerEngine.

Shown on two CPU ranks: the layers that this suite asks for, the weights in them (losses and norms
equal plain torch's), and the values in Megatron's configuration. Not shown: TransformerEngine's own
kernels and names, CUDA, messages of tensor parallelism and of `cp_comm_type`, offloading that
copies. Those need a GPU (`tests/played_transformer_engine.py` is plain torch).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import registry
from baselines.megatron.settings import MegatronSettings
from baselines.protocol import StepResult, Unavailable
from baselines.reference import ReferenceSettings
from benchmarks.worker.weights import initial_weights
from sppo.config.models import gpt, llama
from sppo.config.workload import Cluster, Workload
from sppo.kernels.registry import KERNELS
from tests import played_transformer_engine as played
from tests.distributed.training_cases import RECIPE, context, differences, steps
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

MODELS = {
    "gpt": gpt("gpt-two", layers=2, hidden=64, heads=4, vocabulary=128),
    "llama": llama("llama-two", layers=2, hidden=64, heads=4, kv_heads=2, ffn=176, vocabulary=128),
}
DP = MegatronSettings(transformer_engine=True)
CP = replace(DP, context_parallel=2)
TRAINED = {
    "gpt, CP": ("gpt", CP),
    "gpt, CP, MLP recomputed": (
        "gpt",
        replace(CP, recompute="modules", recompute_modules=("mlp",)),
    ),
    "llama, offloaded layers": ("llama", replace(DP, cpu_offloading_layers=1)),
    "llama, recomputed": ("llama", replace(DP, recompute="full", distributed_optimizer=True)),
}
CONFIGURED = {
    "local": MegatronSettings(),
    "plain": DP,
    "CP": CP,
    "p2p": replace(CP, cp_comm_type="p2p"),
    "layers": replace(DP, cpu_offloading_layers=1),
    "modules": replace(DP, offload_modules=("core_attn", "attn_proj")),
}
FIELDS = (
    *("apply_rope_fusion", "cp_comm_type", "cpu_offloading", "cpu_offloading_num_layers"),
    *("fine_grained_activation_offloading", "offload_modules"),
)


def workload_of(model: str) -> Workload:
    return Workload(
        name="test",
        model=MODELS[model],
        cluster=Cluster(hardware="cpu", device="cpu", nodes=1, ranks_per_node=2),
        sequence_tokens=256,
        sequences_per_step=2,
        optimizer=RECIPE,
    )


def weights_of(workload: Workload) -> dict[str, torch.Tensor]:
    """With norms that all differ: two exchanged ones change the losses."""
    weights = initial_weights(workload.model, workload.seed, torch.float32)
    generator = torch.Generator().manual_seed(4)
    for name, weight in weights.items():
        if "norm" in name:
            weights[name] = weight + 0.2 * torch.randn(weight.shape, generator=generator)
    return weights


def train(rank: int, model: str, settings: MegatronSettings, **changed: Any) -> list[StepResult]:
    """The steps of one system. The adapter would refuse it: there is no GPU."""
    from baselines.megatron.system import MegatronSystem

    workload = workload_of(model)
    weights = {**weights_of(workload), **changed}
    system = MegatronSystem(workload, settings, weights, context(rank, 2, "float32"))
    results = [system.step(tokens) for tokens in steps(workload)]
    system.close()
    return results


def parameters_and_parts(rank: int, settings: MegatronSettings) -> tuple[set[str], list[Any]]:
    """Names of the parameters of the last layer, and what was built of TransformerEngine."""
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    from baselines.megatron.system import MegatronSystem

    TEDotProductAttention.cp_stream = object()  # torch.cuda.Stream needs a GPU
    for variable in [name for name in os.environ if name.startswith("NVTE_")]:
        del os.environ[variable]  # Megatron's, of the process's earlier systems
    played.BUILT.clear()
    workload = workload_of("gpt")
    system = MegatronSystem(workload, settings, weights_of(workload), context(rank, 2, "float32"))
    names = {name for name, _ in system.chunks[0].module.named_parameters() if "layers.1" in name}
    system.close()
    parts = [
        (name, given.get("cp_comm_type"), given.get("num_gqa_groups"))
        for name, given in played.BUILT
    ]
    return names, parts


def configured(rank: int) -> dict[str, Any]:
    from baselines.megatron.model import transformer_config
    from baselines.megatron.te_layers import group_options

    values: dict[str, Any] = {}
    for name, settings in CONFIGURED.items():
        config = transformer_config(workload_of("gpt"), settings, context(rank, 2, "float32"))
        values[name] = {field: getattr(config, field) for field in FIELDS}
        values[name]["backend"] = config.attention_backend.name
    eight = replace(
        workload_of("gpt"),
        cluster=Cluster(hardware="cpu", device="cuda", nodes=2, ranks_per_node=4),
    )
    both = replace(CP, context_parallel=8, cp_comm_type="a2a+p2p")
    values["groups"] = [group_options(eight, each) for each in (both, CP)]
    return values


def refusal_of_a_kernel(rank: int) -> str:
    from baselines.megatron.model import transformer_config
    from sppo.kernels.registry import selected

    selected["cpu"] = KERNELS["cpu"]["math"]
    try:
        transformer_config(workload_of("gpt"), CONFIGURED["p2p"], context(rank, 2, "float32"))
    except Unavailable as error:
        return str(error)
    finally:
        selected["cpu"] = KERNELS["cpu"]["flash"]
    return ""


def on_rank(rank: int, ranks: int) -> dict[str, Any]:
    played.install()
    launched: dict[str, Any] = {}
    for name, (model, settings) in TRAINED.items():
        played.BUILT.clear()
        launched[name] = train(rank, model, settings), list(map(repr, played.BUILT))
    norms = ("layers.1.norm1.weight", "layers.1.norm2.weight")
    first, second = (weights_of(workload_of("gpt"))[name] for name in norms)
    exchanged = dict(zip(norms, (second, first), strict=True))
    launched["exchanged"] = train(rank, "gpt", CP, **exchanged)
    launched["p2p"] = parameters_and_parts(rank, CONFIGURED["p2p"])
    launched["ours"] = parameters_and_parts(rank, CP)
    launched["configured"] = configured(rank)
    launched["refused"] = refusal_of_a_kernel(rank)
    return launched


@pytest.fixture(scope="module")
def launched() -> list[dict[str, Any]]:
    """Everything in one launch: importing the library costs more than training here."""
    return run_ranks(on_rank, 2)


def expected(model: str) -> list[StepResult]:
    workload = workload_of(model)
    system = registry.load("reference").prepare(
        workload, ReferenceSettings(), weights_of(workload), context(0, 1, "float32")
    )
    return [system.step(tokens) for tokens in steps(workload)]


@pytest.mark.parametrize("name", TRAINED)
def test_layers_of_the_te_spec_train_as_plain_torch(
    launched: list[dict[str, Any]], name: str
) -> None:
    wanted = expected(TRAINED[name][0])
    for rank in launched:
        results, built = rank[name]
        assert max(differences(results, wanted)) < 1e-5
        parts = {part.split("'")[1] for part in built}
        assert {"TELayerNormColumnParallelLinear", "TERowParallelLinear"} < parts
        assert "apply_rotary_pos_emb" in parts, "RoPE is TransformerEngine's"
        assert "TEDotProductAttention" not in parts


def test_two_exchanged_norms_are_noticed(launched: list[dict[str, Any]]) -> None:
    assert max(differences(launched[0]["exchanged"], expected("gpt"))) > 1e-5


def test_offloaded_layers_reach_transformer_engine(launched: list[dict[str, Any]]) -> None:
    """Enabled, layers, layers of the model, activations, no weights, one buffer."""
    contexts = [
        part for part in launched[0]["llama, offloaded layers"][1] if "offload_context" in part
    ]
    (context_arguments,) = contexts
    assert "(True, 1, 2, True, False, False)" in context_arguments


def test_norms_lie_inside_the_linear_layers(launched: list[dict[str, Any]]) -> None:
    names, _ = launched[1]["ours"]
    inner = {name.removeprefix("decoder.layers.1.") for name in names}
    linears = ("self_attention.linear_proj", "mlp.linear_fc2")
    fused = ("self_attention.linear_qkv", "mlp.linear_fc1")
    assert inner == {
        *(f"{module}.{kind}" for module in (*linears, *fused) for kind in ("weight", "bias")),
        *(f"{module}.layer_norm_{kind}" for module in fused for kind in ("weight", "bias")),
    }


def test_te_s_attention_is_there_for_its_messages_alone(launched: list[dict[str, Any]]) -> None:
    attention = [part for part in launched[0]["p2p"][1] if part[0] == "TEDotProductAttention"]
    assert attention == [("TEDotProductAttention", "p2p", 4)] * 2
    assert not [part for part in launched[0]["ours"][1] if part[0] == "TEDotProductAttention"]


def test_settings_reach_megatrons_configuration(launched: list[dict[str, Any]]) -> None:
    values = launched[0]["configured"]
    plain = {
        "apply_rope_fusion": True,
        "cp_comm_type": None,
        "cpu_offloading": False,
        "cpu_offloading_num_layers": 0,
        "fine_grained_activation_offloading": False,
        "offload_modules": [],
        "backend": "auto",
    }
    assert values["local"] == {**plain, "apply_rope_fusion": False}
    assert values["plain"] == values["CP"] == plain
    assert values["p2p"] == {**plain, "cp_comm_type": "p2p", "backend": "flash"}
    assert values["layers"] == {**plain, "cpu_offloading": True, "cpu_offloading_num_layers": 1}
    assert values["modules"] == {
        **plain,
        "fine_grained_activation_offloading": True,
        "offload_modules": ["core_attn", "attn_proj"],
    }
    assert values["groups"] == [{"hierarchical_context_parallel_sizes": [4, 2]}, {}]


def test_a_kernel_without_a_twin_in_te_is_refused(launched: list[dict[str, Any]]) -> None:
    words = "TransformerEngine's attention, which has no math: all rows share one family"
    assert words in launched[0]["refused"]

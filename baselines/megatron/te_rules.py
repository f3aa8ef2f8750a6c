"""What needs TransformerEngine, and the rules of Megatron's layer spec for it. No library."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

from baselines.megatron.settings import MegatronSettings
from baselines.versions import version
from sppo.config.sizes import divisors
from sppo.config.workload import Workload

WITHOUT_TE = "without TE: Megatron's local layer spec, no TransformerEngine"
"""The words of every row without TransformerEngine, at the head of its remark."""

OFFLOADABLE = ("qkv_linear", "core_attn", "attn_proj")
"""Modules that Megatron offloads in a dense model of TransformerEngine's spec.

Of `attn_norm` and `mlp_norm` it offloads nothing, without a word: the norms lie in the linear
layers. The rest are parts of experts.
"""

_PACKAGE = "transformer-engine"

_NEEDS_TE = (
    (
        "cp_comm_type",
        "Context parallelism is only supported by TEDotProductAttention!",
    ),
    ("cpu_offloading_layers", "CPU Offloading is enabled when TE is not present"),
    ("offload_modules", "TE CPU offload is not available"),
)
"""Fields of the settings, and the words of megatron-core without TransformerEngine."""


def has_te() -> bool:
    """Whether TransformerEngine is installed; it may still not load."""
    return find_spec("transformer_engine") is not None


def te_version() -> dict[str, str]:
    """The version of TransformerEngine; empty where it is not installed."""
    try:
        return {_PACKAGE: version(_PACKAGE)}
    except PackageNotFoundError:
        return {}


def missing_without_te(settings: MegatronSettings) -> str | None:
    """The part of TransformerEngine that the settings of a local spec need, or None.

    Without TransformerEngine in the library's words. With it the reason is this suite's.
    """
    ours = "this suite builds Megatron's local spec; megatron-te builds TransformerEngine's"
    if settings.transformer_engine:
        return ours
    for field, library in _NEEDS_TE:
        value = getattr(settings, field)
        if value is not None:
            reason = ours if has_te() else f"megatron-core: {library}"
            return f"{_words(field, value)} is TransformerEngine's; {reason}{_instead(field)}"
    return None


def _words(field: str, value: object) -> str:
    if field == "cp_comm_type":
        return f"{field} {value}"
    if field == "offload_modules":
        return f"{field} (fine-grained activation offloading, on CUDA streams)"
    return "cpu_offloading"


def _instead(field: str) -> str:
    return " (leave it out: CP then gathers K and V)" if field == "cp_comm_type" else ""


def missing_with_te(workload: Workload, settings: MegatronSettings) -> str | None:
    """What a row of TransformerEngine's spec lacks here: a GPU, the library, its rules; or None."""
    if not settings.transformer_engine:
        return "this suite builds TransformerEngine's spec here; megatron builds the local one"
    if workload.cluster.device != "cuda":
        return f"TransformerEngine runs on CUDA alone, and {workload.name} runs on a CPU"
    if not has_te():
        return (
            "TransformerEngine is not installed: pip install transformer-engine[pytorch] "
            "(Megatron-Core's rule: its TransformerEngine layer spec imports the package)"
        )
    return te_obstacle(workload, settings)


def te_obstacle(workload: Workload, settings: MegatronSettings) -> str | None:
    """Why Megatron's layer spec for TransformerEngine cannot run the settings, or None."""
    if "layernorm" in settings.recompute_modules:
        return (
            "TransformerEngine's spec has the norms inside linear layers: Megatron would recompute "
            "no layernorm, without a word"
        )
    return _offloading_obstacle(workload, settings) or _context_obstacle(workload, settings)


def _offloading_obstacle(workload: Workload, settings: MegatronSettings) -> str | None:
    layers, modules = settings.cpu_offloading_layers, settings.offload_modules
    if layers is not None:
        if not 0 < layers < workload.model.layers:
            return (
                f"cpu_offloading of {layers} layers: it can be done only for layers less than "
                f"{workload.model.layers} (Megatron's rule)"
            )
        if settings.pipeline_parallel > 1:
            return "cpu_offloading has no support for pipeline parallelism (Megatron's rule)"
        if settings.recompute != "none":
            return "cpu_offloading does not work with recomputation (Megatron's rule)"
    if modules is None:
        return None
    if layers is not None:
        return "offload_modules cannot be enabled with cpu_offloading (Megatron's rule)"
    silent = sorted(set(modules) - set(OFFLOADABLE))
    if silent:
        return (
            f"offload_modules {', '.join(silent)}: Megatron would offload nothing in a dense model "
            f"of TransformerEngine's spec; take {', '.join(OFFLOADABLE)}"
        )
    if "attn_proj" in modules and "core_attn" not in modules:
        return "offload_modules attn_proj needs core_attn too (Megatron's rule)"
    if settings.recompute not in ("none", "modules"):
        return (
            "offload_modules with whole layers recomputed: this suite does not combine them, "
            "because such a layer saves its input alone"
        )
    return None


def _context_obstacle(workload: Workload, settings: MegatronSettings) -> str | None:
    kind, context = settings.cp_comm_type, settings.context_parallel
    if kind is None:
        return None
    if context == 1:
        return f"cp_comm_type {kind} is for context parallelism: CP is 1"
    if kind == "a2a+p2p" and a2a_ranks(workload, settings) is None:
        return (
            f"cp_comm_type {kind}: no part of CP {context} lies in a node of "
            f"{workload.cluster.ranks_per_node} ranks beside TP {settings.tensor_parallel} and "
            "divides the heads"
        )
    if kind == "a2a":
        for name, heads in _heads_of_a_rank(workload, settings).items():
            if heads % context:
                return (
                    f"cp_comm_type {kind}: {heads} {name} heads of a TP rank do not divide over "
                    f"CP {context} (TransformerEngine's rule)"
                )
    return None


def a2a_ranks(workload: Workload, settings: MegatronSettings) -> int | None:
    """Ranks of an all-to-all within `a2a+p2p`: the most of CP in a node; None without any.

    A rank of TP is next to the other ranks of its TP group, then to those of its CP group.
    """
    heads = _heads_of_a_rank(workload, settings).values()
    for size in reversed(divisors(settings.context_parallel)[1:-1]):
        in_node = workload.cluster.ranks_per_node % (settings.tensor_parallel * size) == 0
        if in_node and not any(count % size for count in heads):
            return size
    return None


def _heads_of_a_rank(workload: Workload, settings: MegatronSettings) -> dict[str, int]:
    """Heads of a tensor-parallel rank by kind. A KV head may be on several ranks."""
    model, tensor = workload.model, settings.tensor_parallel
    return {"query": model.heads // tensor, "KV": max(1, model.kv_heads // tensor)}

"""Megatron's layer spec for TransformerEngine, and its configuration. Imports megatron.core.

With the run's kernel of attention, unless `cp_comm_type` asks for TransformerEngine's own.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.spec_utils import ModuleSpec

from baselines.megatron.attention import CoreAttention
from baselines.megatron.settings import MegatronSettings
from baselines.megatron.te_rules import a2a_ranks
from baselines.protocol import Unavailable
from sppo.config.workload import Workload
from sppo.kernels.registry import selected

BACKENDS = {"flash": AttnBackend.flash, "cudnn": AttnBackend.fused}
"""By kernel of the run: the backend of the same family in TransformerEngine."""


def layer_spec(settings: MegatronSettings) -> ModuleSpec:
    """One layer: norms fused into the linear layers that follow them."""
    layer = get_gpt_layer_with_transformer_engine_spec()
    if settings.cp_comm_type is None:
        layer.submodules.self_attention.submodules.core_attention = CoreAttention
    return layer


def final_norm() -> Any:
    """The norm behind the last layer."""
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


def te_options(settings: MegatronSettings, device_type: str) -> dict[str, Any]:
    """What TransformerEngine's rows set in TransformerConfig. Raises Unavailable."""
    options: dict[str, Any] = {"apply_rope_fusion": True}
    if settings.cp_comm_type is not None:
        options |= {
            "cp_comm_type": settings.cp_comm_type,
            "attention_backend": _backend(selected[device_type].name),
        }
    if settings.cpu_offloading_layers is not None:
        options |= {
            "cpu_offloading": True,
            "cpu_offloading_num_layers": settings.cpu_offloading_layers,
        }
    if settings.offload_modules is not None:
        options |= {
            "fine_grained_activation_offloading": True,
            "offload_modules": list(settings.offload_modules),
        }
    return options


def _backend(kernel: str) -> AttnBackend:
    if kernel not in BACKENDS:
        raise Unavailable(
            f"cp_comm_type takes TransformerEngine's attention, which has no {kernel}: all rows "
            f"share one family of kernels, so take {' or '.join(BACKENDS)} by --attention-kernel"
        )
    return BACKENDS[kernel]


def group_options(workload: Workload, settings: MegatronSettings) -> dict[str, Any]:
    """Sizes of the two levels of `a2a+p2p`, as parallel_state takes them; else nothing."""
    if settings.cp_comm_type != "a2a+p2p":
        return {}
    inner = a2a_ranks(workload, settings)
    assert inner is not None, "the adapter refuses such settings"
    return {"hierarchical_context_parallel_sizes": [inner, settings.context_parallel // inner]}

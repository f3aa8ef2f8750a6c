"""Megatron-Core's own GPTModel, wrapped in its own data parallelism, with its own optimizer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.tensor_parallel import layers as tensor_parallel_layers
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from baselines.megatron.attention import CoreAttention
from baselines.megatron.patches import cuda_type_names
from baselines.megatron.saved_attention import save_attention
from baselines.megatron.settings import MegatronSettings, microbatch_group
from baselines.megatron.te_layers import final_norm, layer_spec, te_options
from baselines.megatron.weights import RankShard, load_weights
from baselines.protocol import Context, Weights
from sppo.config.workload import Workload
from sppo.kernels import fused


class _Norm:
    """torch's norm, marked for Megatron, whose own wrapper refuses sequence parallelism.

    The norm works token by token; only the gradients of its parameters must be summed over the
    tensor-parallel ranks, which `sequence_parallel` on the parameter asks for.
    """

    def __new__(cls, config: Any, hidden_size: int, eps: float, **_: Any) -> nn.Module:  # type: ignore[misc]
        kind = nn.RMSNorm if config.normalization == "RMSNorm" else nn.LayerNorm
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        norm: nn.Module = kind(hidden_size, eps=eps, device=device, dtype=config.params_dtype)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


def _make_mlp_biases_recomputable(network: GPTModel) -> None:
    """Let Megatron's recompute module "mlp" work in a model with biases.

    MLP returns its last bias, the parameter itself, for a later addition. Megatron's checkpoint
    function turns that parameter into an output, which is no leaf, and the backward recurses
    without end (seen in 0.16.1). A copy of the bias is an ordinary output.
    """

    def copy_bias(_: nn.Module, __: Any, result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return result[0], result[1].clone()

    for layer in network.decoder.layers:
        layer.mlp.register_forward_hook(copy_bias)


def recompute_options(settings: MegatronSettings) -> dict[str, Any]:
    """The settings as TransformerConfig spells them."""
    if settings.recompute in ("none", "save-attention"):
        return {}
    if settings.recompute == "modules":
        return {
            "recompute_granularity": "selective",
            "recompute_modules": list(settings.recompute_modules),
        }
    block = settings.recompute == "block"
    return {
        "recompute_granularity": "full",
        "recompute_method": "block" if block else "uniform",
        "recompute_num_layers": settings.recompute_layers if block else 1,
    }


def interleaving_options(workload: Workload, settings: MegatronSettings) -> dict[str, Any]:
    """Model chunks as TransformerConfig spells them, with Megatron-LM's default of messages.

    Its messages then go one by one beside compute. In one batch, two stages would confuse
    activations and gradients (patch "two-stage-batches").
    """
    if settings.virtual_pipeline is None:
        return {}
    micro_batches = workload.sequences_per_step * settings.model_ranks // workload.cluster.ranks
    return {
        "virtual_pipeline_model_parallel_size": settings.virtual_pipeline,
        "microbatch_group_size_per_vp_stage": microbatch_group(
            settings.pipeline_parallel, micro_batches
        ),
        "overlap_p2p_comm": True,
        "batch_p2p_comm": False,
    }


def _no_initialisation(weight: Tensor) -> None:
    """The canonical weights are copied later.

    `perform_initialization=False` would also drop the marks that gradient clipping reads.
    """


def transformer_config(
    workload: Workload, settings: MegatronSettings, context: Context
) -> TransformerConfig:
    """The model and settings as a TransformerConfig, otherwise with Megatron-LM's defaults.

    Fused bias kernels are compiled for CUDA only, and not for GELU: Megatron's is the tanh
    approximation, a different model. Fused RoPE and norms need TransformerEngine or Apex. Raises
    Unavailable.
    """
    model = workload.model
    with_te = te_options(settings, context.device.type) if settings.transformer_engine else {}
    cuda = context.device.type == "cuda"
    gated = model.activation == "swiglu"
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden,
        num_attention_heads=model.heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_width,
        ffn_hidden_size=model.ffn,
        normalization="RMSNorm" if model.norm == "rmsnorm" else "LayerNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=gated,
        activation_func=F.silu if gated else F.gelu,
        add_bias_linear=model.biases,
        add_qkv_bias=model.biases,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method=_no_initialisation,
        output_layer_init_method=_no_initialisation,
        embedding_init_method=_no_initialisation,
        use_cpu_initialization=not cuda,
        params_dtype=context.dtype,
        pipeline_dtype=context.dtype,
        bf16=context.dtype == torch.bfloat16,
        tensor_model_parallel_size=settings.tensor_parallel,
        pipeline_model_parallel_size=settings.pipeline_parallel,
        context_parallel_size=settings.context_parallel,
        sequence_parallel=settings.sequence_parallel,
        deallocate_pipeline_outputs=True,
        batch_p2p_sync=cuda,
        bias_activation_fusion=cuda and gated,
        bias_dropout_fusion=cuda,
        masked_softmax_fusion=False,
        cross_entropy_loss_fusion=cuda and fused.switch.on,
        persist_layer_norm=False,
        gradient_accumulation_fusion=cuda and tensor_parallel_layers._grad_accum_fusion_available,
        **recompute_options(settings),
        **interleaving_options(workload, settings),
        **with_te,
    )


def _fuse_rope() -> None:
    """Compile Megatron's RoPE: its own fused one needs TransformerEngine or Apex."""
    from megatron.core.models.common.embeddings import rope_utils

    unfused = rope_utils._apply_rotary_pos_emb_bshd
    rope_utils._apply_rotary_pos_emb_bshd = fused.piece(unfused)


def build_model(
    workload: Workload, settings: MegatronSettings, weights: Weights, context: Context
) -> list[DistributedDataParallel]:
    """This rank's model chunks and shards, loaded, wrapped as Megatron always wraps them.

    No Float16Module: it would only copy. Parameters are built in the final dtype, inputs are
    integers, and Megatron's cross entropy is float32 already.
    """
    config = transformer_config(workload, settings, context)
    if fused.switch.on and not config.apply_rope_fusion:
        _fuse_rope()
    stages = [None] if settings.virtual_pipeline is None else list(range(settings.chunks))
    networks = [_chunk(workload, settings, weights, config, stage) for stage in stages]
    replicas = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
    overlap = replicas > 1
    options = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=overlap,
        use_distributed_optimizer=settings.distributed_optimizer,
    )
    wrapped = [
        DistributedDataParallel(config, options, network, disable_bucketing=number > 0)
        for number, network in enumerate(networks)
    ]
    config.finalize_model_grads_func = finalize_model_grads
    if overlap:
        no_syncs = [chunk.no_sync for chunk in wrapped]
        config.no_sync_func = no_syncs if settings.chunks > 1 else no_syncs[0]
    return wrapped


def _chunk(
    workload: Workload,
    settings: MegatronSettings,
    weights: Weights,
    config: TransformerConfig,
    vp_stage: int | None,
) -> GPTModel:
    """One model chunk of this rank, loaded. vp_stage: its number, None for the only chunk."""
    network = GPTModel(
        config=config,
        transformer_layer_spec=_block_spec(config, settings, vp_stage),
        vocab_size=workload.model.vocabulary,
        max_sequence_length=workload.sequence_tokens,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        parallel_output=True,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_percent=1.0,
        rotary_base=workload.model.rope_theta,
        vp_stage=vp_stage,
    )
    layers = network.decoder.layers
    if "mlp" in settings.recompute_modules and workload.model.biases:
        _make_mlp_biases_recomputable(network)
    if settings.recompute == "save-attention":
        save_attention(layers[: settings.recompute_layers or len(layers)])
    rank_shard = RankShard(
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_parallel=settings.tensor_parallel,
        first_layer=layers[0].layer_number - 1,
    )
    load_weights(network, weights, workload.model, rank_shard)
    return network


def _block_spec(
    config: TransformerConfig, settings: MegatronSettings, vp_stage: int | None
) -> TransformerBlockSubmodules:
    te = settings.transformer_engine
    layer, norm = (layer_spec(settings), final_norm()) if te else (_local_layer(config), _Norm)
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=norm
    )


def _local_layer(config: TransformerConfig) -> ModuleSpec:
    layer = get_gpt_layer_local_spec(normalization=config.normalization)
    layer.submodules.self_attention.submodules.core_attention = CoreAttention
    layer.submodules.input_layernorm = _Norm
    layer.submodules.pre_mlp_layernorm = _Norm
    return layer


def build_optimizer(
    workload: Workload,
    settings: MegatronSettings,
    wrapped: list[DistributedDataParallel],
    context: Context,
) -> Any:
    """Megatron's mixed-precision AdamW with its own clipping, at a constant learning rate."""
    recipe = workload.optimizer
    config = OptimizerConfig(
        optimizer="adam",
        lr=recipe.learning_rate,
        min_lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.beta1,
        adam_beta2=recipe.beta2,
        adam_eps=recipe.epsilon,
        clip_grad=recipe.clip_norm,
        bf16=context.dtype == torch.bfloat16,
        params_dtype=context.dtype,
        use_distributed_optimizer=settings.distributed_optimizer,
    )
    with cuda_type_names(context.device):
        optimizer = get_megatron_optimizer(config, wrapped, use_gloo_process_groups=False)
    for group in optimizer.param_groups:
        # Megatron's learning-rate scheduler does this; without it, vectors would decay too.
        group["weight_decay"] = recipe.weight_decay * group["wd_mult"]
    return optimizer

"""The block with attention: norm, attention over the prefix, norm, MLP (GPT of the paper; Llama).

Per subsequence of `l` tokens: h hidden, f MLP width, a query heads, all on one rank. No torch.
"""

from __future__ import annotations

from functools import partial

from sppo.config.models import Model
from sppo.plan.blocks import attention_temporaries as temporaries
from sppo.plan.blocks.block import BlockSpec, CanonicalWeight, StateTensor
from sppo.plan.saved_tensors import (
    SavedTensor,
    exchanged,
    norm_statistics,
    not_recomputable,
    product,
    recomputable,
)

OFFLOAD_ORDER = (
    "mlp.activation",
    "mlp.up",
    "mlp.gate",
    "block.input",
    "block.middle",
    "norm1.output",
    "norm2.output",
    "attention.query",
    "attention.output",
)
"""The saved tensors that are offloaded first: the largest, then those that the backward reads
latest. Statistics are too small to be worth a copy and stay."""

RECOMPUTE_CHEAP = ("norm1.output", "norm2.output", "mlp.activation")
"""Recomputed by reading and writing memory once: nearly free."""

RECOMPUTE_MLP = (*RECOMPUTE_CHEAP, "mlp.up", "mlp.gate")
"""The MLP's products as well, its widest tensors: 8 h bytes a token and layer in bfloat16 stay."""

RECOMPUTE_LEAN = (*RECOMPUTE_MLP, "block.middle", "attention.query")
"""All but the block's input and the attention's output with its log-sum-exp: 4 h bytes a token
and layer in bfloat16 stay. Only linear layers are recomputed, never attention."""

RECOMPUTE_FULL = (*RECOMPUTE_LEAN, "attention.output")
"""The tensors that Megatron's and DeepSpeed's block checkpointing drops, attention among them (its
log-sum-exp is as small as a statistic and stays). For comparison, never for speed."""

FORWARD_EXCHANGES = 4
"""all_gather and reduce_scatter of hidden states: before and behind attention, and the MLP."""

BACKWARD_EXCHANGES = 6
"""The same of their gradients, and two of the inputs that the weights' gradients need again."""

PREFIX_BLOCK_TOKENS = 1024
"""Keys per call of an attention backward over the prefix, at least: else as many as queries."""


def ring_slots(device: str) -> int:
    """Blocks of hosted K and V on a device: a third where both directions copy during a compute."""
    return 3 if device == "cuda" else 2


def attention_block(model: Model) -> BlockSpec:
    """The description of this model's block."""
    qkv = model.hidden + 2 * model.kv_width
    return BlockSpec(
        weights=_weights(model),
        joint_weights={"attention.qkv": ("attention.query", "attention.key", "attention.value")},
        paired_weights=("attention.query", "attention.key"),
        shard_counts=(
            ("query heads", model.heads),
            ("KV heads", model.kv_heads),
            ("MLP columns", model.ffn),
        ),
        saved_tensors=_saved_tensors(model),
        offload_order=OFFLOAD_ORDER,
        recompute_cheap=RECOMPUTE_CHEAP,
        recompute_mlp=RECOMPUTE_MLP,
        recompute_lean=RECOMPUTE_LEAN,
        recompute_full=RECOMPUTE_FULL,
        mixer_flops_per_pair=4 * model.hidden,  # of QK^T and of PV
        forward_exchanges=FORWARD_EXCHANGES,
        backward_exchanges=BACKWARD_EXCHANGES,
        forward_all_to_alls=(qkv, model.hidden),
        backward_all_to_alls=(model.hidden, qkv),  # gradient of the output, then of the inputs
        backward_sums=model.heads,
        forward_spans=temporaries.FORWARD_SPANS,
        backward_spans=temporaries.BACKWARD_SPANS,
        forward_walk=temporaries.forward_walk,
        backward_walk=temporaries.backward_walk,
        recomputing=temporaries.recomputing,
        early_readers=temporaries.EARLY_READERS,
        mixer_backward_step=temporaries.ATTENTION_BACKWARD_STEP,
        kernel_scratch_bytes=partial(temporaries.kernel_scratch_bytes, model),
        compiled_kernels=2 if model.activation in temporaries.CODED_ACTIVATIONS else 0,
        state=(
            StateTensor("attention.key", model.kv_width),
            StateTensor("attention.value", model.kv_width),
        ),
        state_heads=model.kv_heads,
        prefix_block_tokens=PREFIX_BLOCK_TOKENS,
        position_numbers=model.head_width,  # RoPE's turns
    )


def _weights(model: Model) -> dict[str, CanonicalWeight]:
    """Heads and MLP columns are divided over the ranks of a stage, and so are the tokens between.

    As Megatron's tensor parallelism with sequence parallelism does it: norms, and the biases that
    are added to divided tokens, are whole on every rank; their gradients are summed once a step.
    """
    hidden = model.hidden
    linears = {
        "attention.query": (model.hidden, hidden, 0),
        "attention.key": (model.kv_width, hidden, 0),
        "attention.value": (model.kv_width, hidden, 0),
        "attention.output": (hidden, hidden, 1),
    }
    if model.activation == "swiglu":
        linears["mlp.gate"] = (model.ffn, hidden, 0)
    linears["mlp.up"] = (model.ffn, hidden, 0)
    linears["mlp.down"] = (hidden, model.ffn, 1)
    weights: dict[str, CanonicalWeight] = {}
    for norm in ("norm1", "norm2"):
        weights[f"{norm}.weight"] = CanonicalWeight((hidden,), None)
        if model.norm == "layernorm":
            weights[f"{norm}.bias"] = CanonicalWeight((hidden,), None)
    for name, (width, inner, axis) in linears.items():
        weights[f"{name}.weight"] = CanonicalWeight((width, inner), axis)
        if model.biases:
            weights[f"{name}.bias"] = CanonicalWeight((width,), 0 if axis == 0 else None)
    return weights


def _saved_tensors(model: Model) -> tuple[SavedTensor, ...]:
    """The tensors that the block saves for its backward, in the order of the forward."""
    hidden, ffn = model.hidden, model.ffn
    statistics = norm_statistics(model)
    wide = [product("mlp.up", ffn, hidden, "norm2.output")]
    if model.activation == "swiglu":
        wide.insert(0, product("mlp.gate", ffn, hidden, "norm2.output"))
    return (
        not_recomputable("block.input", elements=hidden),
        not_recomputable("norm1.statistics", statistics=statistics),
        recomputable("norm1.output", hidden, "norm", "block.input"),
        exchanged(product("attention.query", hidden, hidden, "norm1.output")),
        exchanged(recomputable("attention.output", hidden, "mixer", "attention.query")),
        not_recomputable("attention.logsumexp", statistics=model.heads),
        product("block.middle", hidden, hidden, "attention.output", "block.input"),
        not_recomputable("norm2.statistics", statistics=statistics),
        recomputable("norm2.output", hidden, "norm", "block.middle"),
        *wide,
        recomputable("mlp.activation", ffn, "activation", *(tensor.name for tensor in wide)),
    )

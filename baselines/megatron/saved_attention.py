"""Recompute a layer but for its attention: ours, because Megatron has no such option.

Megatron's own layer runs unchanged inside torch's checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.checkpoint import checkpoint, noop_context_fn

from baselines.attention_saving import ATTENTION, contexts_saving
from baselines.megatron.attention import CoreAttention, KeptAttention


def save_attention(layers: Iterable[Any]) -> None:
    """From now on a backward of each TransformerLayer runs its forward again, but no attention."""
    for layer in layers:
        layer.forward = _checkpointed(layer.forward, layer.self_attention.core_attention)


def _checkpointed(forward: Any, core: CoreAttention) -> Any:
    """`forward` of a layer inside a checkpoint that saves what `core` computes."""
    in_parts = core.group is not None
    # Context parallelism calls flash attention in parts: torch's policy would save every part.
    contexts = noop_context_fn if in_parts else contexts_saving(ATTENTION)

    def checkpointed(*arguments: Any, **options: Any) -> Any:
        kept: KeptAttention | None = [] if in_parts else None

        def run(*arguments: Any, **options: Any) -> Any:
            core.kept = kept
            try:
                return forward(*arguments, **options)
            finally:
                core.kept = None

        return checkpoint(
            run,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=contexts,
            **options,
        )

    return checkpointed

"""Which block a model has. No torch."""

from __future__ import annotations

from functools import lru_cache

from sppo.config.models import Model
from sppo.plan.blocks.attention import attention_block
from sppo.plan.blocks.block import BlockSpec


@lru_cache(maxsize=256)
def block_of(model: Model) -> BlockSpec:
    """The description of the model's decoder block: all of them have attention."""
    return attention_block(model)

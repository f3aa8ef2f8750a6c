"""The description of a decoder block: one file for each mixer. Everything generic reads it."""

from sppo.plan.blocks.block import BlockSpec, CanonicalWeight, StateTensor, gradient_element_bytes
from sppo.plan.blocks.of_model import block_of

__all__ = ["BlockSpec", "CanonicalWeight", "StateTensor", "block_of", "gradient_element_bytes"]

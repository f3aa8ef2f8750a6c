"""The description of a decoder block: one file for each mixer. Everything generic reads it."""

from sppo.plan.blocks.block import Block, CanonicalWeight
from sppo.plan.blocks.of_model import block_of

__all__ = ["Block", "CanonicalWeight", "block_of"]

"""Device bytes of a stage that no tracked tensor of a step shows. No torch.

The sizes of a library come with the profile, measured or with their source (docs/hardware.md). The
scratch of a block's kernels is in its description.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from sppo.config.hardware import Hardware
from sppo.config.sizes import MIB
from sppo.plan.blocks import block_of, gradient_element_bytes
from sppo.plan.parts import PartShape, state_elements
from sppo.plan.plan import Untracked

GLOO_BUFFER_BYTES = MIB
"""Room of gloo's own buffers beside the clone of what it sums; 0.3 MiB were seen."""


def summed_bytes(shapes: Sequence[PartShape], device: str) -> int:
    """Bytes in which gloo sums gradients of a stage over the copies of its weights, at most."""
    if device != "cpu" or shapes[0].weight_copies == 1:
        return 0
    elements = state_elements(shapes)
    wide = gradient_element_bytes(shapes[0].element_bytes)
    return (elements.whole + elements.gathered) * wide + GLOO_BUFFER_BYTES


def untracked(
    shape: PartShape,
    profile: Hardware,
    *,
    tokens: Collection[int],
    keys: int,
    connections: int,
    summed_bytes: int = 0,
) -> Untracked:
    """Device bytes of a rank that no tracked tensor shows; its chunks are like `shape`.

    tokens: the different counts of tokens that the rank computes at a time. keys: the most that
    one call of attention meets. connections: of other ranks to or from this one, one way each.
    summed_bytes: of gloo, which sums a clone of gradients over the copies of weights.
    """
    groups = 1 + (shape.weight_shards > 1) + (shape.ulysses > 1) + (shape.context > 1)
    groups += shape.replicas > 1 or (shape.ulysses > 1 and shape.context > 1)
    block = block_of(shape.model)
    size, shards = shape.element_bytes, shape.shards
    scratch = partial(
        block.kernel_scratch_bytes,
        element_bytes=size,
        shards=shards,
        context=shape.context,
        keys=keys,
    )
    sizes = Untracked(
        code=len(tokens) * block.compiled_kernels * profile.kernel_code_bytes,
        scratch=max((scratch(device=profile.device, queries=n) for n in tokens), default=0),
        workspaces=profile.workspace_bytes,
        communicators=groups * profile.communicator_bytes
        + connections * profile.connection_bytes
        + summed_bytes,
        process=profile.process_bytes,
    )
    free_reserve = profile.reserve_bytes - profile.context_bytes
    return replace(sizes, reserved=min(sizes.total, free_reserve))

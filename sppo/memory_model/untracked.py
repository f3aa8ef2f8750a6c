"""What a stage takes on its device beside the tensors that a step tracks. No torch.

The sizes of a library come with the profile, measured or with their source (docs/hardware.md). The
sizes of a kernel's scratch follow from its blocks, which are those of torch's own source.
"""

from __future__ import annotations

from collections.abc import Collection

from sppo.config.hardware import Profile
from sppo.plan.parts import PartShape
from sppo.plan.plan import Untracked

CODED_ACTIVATIONS = ("gelu",)
"""Activation functions that oneDNN compiles for each shape, a forward and a backward."""

KEYS_PER_BLOCK = 512
"""Keys of a block of torch's attention on a CPU, forward and backward."""

QUERIES_PER_BLOCK = ((768, 256), (192, 64), (0, 32))
"""Least queries of a call, and how many it takes at a time: torch's attention on a CPU."""

ROUNDED_QUERIES = 128
"""A flash backward on CUDA rounds its queries up to a multiple."""


def untracked(
    shape: PartShape,
    profile: Profile,
    *,
    tokens: Collection[int],
    keys: int,
    connections: int,
) -> Untracked:
    """Bytes beside tracked tensors on a rank whose parts are like `shape`.

    tokens: the different counts of tokens that the rank computes at a time. keys: the most that
    one call of attention meets. connections: of other ranks to or from this one, one way each.
    """
    groups = 1 + (shape.shards > 1) + (shape.replicas > 1)
    communicators = groups * profile.communicator_bytes + connections * profile.connection_bytes
    kernels = 2 * len(tokens) if shape.model.activation in CODED_ACTIVATIONS else 0
    sizes = {
        "code": kernels * profile.kernel_code_bytes,
        "scratch": max((_attention_bytes(shape, profile, n, keys) for n in tokens), default=0),
        "workspaces": profile.workspace_bytes,
        "communicators": communicators,
        "process": profile.process_bytes,
    }
    free_reserve = profile.reserve_bytes - profile.context_bytes
    return Untracked(**sizes, reserved=min(sum(sizes.values()), free_reserve))


def _attention_bytes(shape: PartShape, profile: Profile, queries: int, keys: int) -> int:
    """The larger of what torch's attention takes inside a forward and inside a backward.

    On a CPU: the scores of a block and, in a backward, their gradient; a forward has a block's
    output besides. On CUDA: the queries' gradient in float32 and two rows of it, and with shared
    keys dK and dV of every head.
    """
    model, precise = shape.model, max(4, shape.element_bytes)
    if profile.device == "cpu":
        rows = next(block for least, block in QUERIES_PER_BLOCK if queries >= least)
        forward = rows * (KEYS_PER_BLOCK + 2 + model.head_width)
        return max(forward, 2 * rows * KEYS_PER_BLOCK) * precise
    rounded = -(-queries // ROUNDED_QUERIES) * ROUNDED_QUERIES
    width = model.heads * (model.head_width + 2) * precise
    expanded = 0
    if model.kv_heads != model.heads:
        expanded = 2 * keys * model.hidden * shape.element_bytes
    return -(-(rounded * width + expanded) // shape.shards)

"""The settings of PyTorch native in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sppo.config.models import Model
from sppo.config.workload import Workload

Checkpointing = Literal["none", "save-messages", "save-attention", "full"]


@dataclass(frozen=True, kw_only=True)
class NativeSettings:
    """The settings that users of FSDP2 tune for long sequences.

    tensor_parallel: the TP degree, with sequence parallelism between the products.
    sequence_parallel: the Ulysses degree; each Ulysses rank is a TP group. context_parallel: the
    ranks of a ring, each of which is a Ulysses group. The remaining degree is data parallelism.
    FSDP2 shards over all ranks but those of a TP group, which have shards of their own.
    reshard_after_forward: FSDP2 frees the gathered weights of a block after its
    forward, and gathers them again for its backward.

    checkpointing: in the first `checkpointed_layers` blocks (None: all) the backward recomputes
    everything ("full"), everything but attention ("save-attention"), or everything but attention,
    all-to-alls and the reduce-scatters of TP ("save-messages").
    compile: torch.compile makes one graph of every block, as torchtitan does. None: no.
    """

    sequence_parallel: int
    context_parallel: int = 1
    tensor_parallel: int = 1
    reshard_after_forward: bool = True
    checkpointing: Checkpointing = "none"
    checkpointed_layers: int | None = None
    compile: bool | None = None

    def __post_init__(self) -> None:
        if self.sequence_parallel < 1:
            raise ValueError("sequence_parallel must be at least 1 (1 is no Ulysses)")
        if self.context_parallel < 1:
            raise ValueError("context_parallel must be at least 1 (1 is no ring)")
        if self.tensor_parallel < 1:
            raise ValueError("tensor_parallel must be at least 1 (1 is no TP)")
        if self.checkpointing not in get_args(Checkpointing):
            known = ", ".join(get_args(Checkpointing))
            raise ValueError(f"checkpointing is one of {known}, not {self.checkpointing!r}")
        if self.checkpointed_layers is not None:
            if self.checkpointing == "none":
                raise ValueError("checkpointed_layers needs a checkpointing other than none")
            if self.checkpointed_layers < 1:
                raise ValueError('checkpointed_layers must be at least 1; for 0 say "none"')
        if self.compile and (self.tensor_parallel > 1 or self.context_parallel > 1):
            raise ValueError("compile was tried with Ulysses alone: leave out TP and the ring")
        if self.context_parallel > 1 and self.checkpointing == "save-messages":
            raise ValueError(
                "save-messages would keep all keys and values of a ring: save-attention"
            )

    @property
    def ranks_of_a_ring_rank(self) -> int:
        """Ranks of a Ulysses group with their TP groups."""
        return self.sequence_parallel * self.tensor_parallel

    @property
    def ranks_of_a_sequence(self) -> int:
        """Ranks that share a sequence."""
        return self.ranks_of_a_ring_rank * self.context_parallel

    def layers_to_checkpoint(self, model: Model) -> int:
        """How many blocks of the model are recomputed."""
        if self.checkpointing == "none":
            return 0
        return model.layers if self.checkpointed_layers is None else self.checkpointed_layers


FLAGS = (
    *("tensor_parallel", "sequence_parallel", "context_parallel"),
    *("zero", "recompute", "compile"),
)
"""The flags of `sppo-bench emulate` for settings of PyTorch native."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> NativeSettings:
    """Ulysses takes all ranks that TP and ring leave, unless a degree is given.

    Raises ValueError.

    `--zero 3` reshards after the forward, `--zero 2` does not. `--recompute` is a checkpointing,
    with `:N` for the first N blocks alone.
    """
    zero = given.get("zero", 3)
    if zero not in (2, 3):
        raise ValueError(
            f"--zero {zero}: FSDP2 shards weights, gradients and optimizer: 3 gathers the weights "
            "of a block twice (reshard after forward), 2 once"
        )
    words = given.get("recompute", "none")
    checkpointing, _, count = words.partition(":")
    if checkpointing not in get_args(Checkpointing) or (count and not count.isdecimal()):
        known = ", ".join(get_args(Checkpointing))
        raise ValueError(
            f"--recompute {words}: PyTorch native takes {known}; save-attention:8 recomputes 8 "
            "blocks alone"
        )
    ring, tensor = given.get("context_parallel", 1), given.get("tensor_parallel", 1)
    left = max(1, workload.cluster.ranks // (ring * tensor))
    return NativeSettings(
        sequence_parallel=given.get("sequence_parallel", left),
        context_parallel=ring,
        tensor_parallel=tensor,
        reshard_after_forward=zero == 3,
        checkpointing=checkpointing,
        checkpointed_layers=int(count) if count else None,
        compile=given.get("compile"),
    )

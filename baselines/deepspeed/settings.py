"""The settings of DeepSpeed in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sppo.config.models import Model
from sppo.config.workload import Workload

Checkpointing = Literal["none", "blocks"]

FIRST_STEP_TOKENS = 64
"""The throw-away first step is this long (see `baselines.protocol.System.step`)."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSettings:
    """The settings that users of DeepSpeed tune for long sequences.

    sequence_parallel: the Ulysses degree; the remaining degree is data parallelism.
    checkpointing: "blocks" recomputes the first `checkpointed_layers` blocks, None meaning all.
    tiled_mlp: tiles per MLP (ALST's TiledMLP, which recomputes the MLP), 0 for none.
    tiled_loss: logits tile by tile (ALST's TiledFusedLogitsLoss, which recomputes nothing).
    """

    sequence_parallel: int
    zero_stage: int = 1
    checkpointing: Checkpointing = "none"
    checkpointed_layers: int | None = None
    tiled_mlp: int = 0
    tiled_loss: bool = False

    def __post_init__(self) -> None:
        if self.sequence_parallel < 1:
            raise ValueError("sequence_parallel must be at least 1 (1 is no Ulysses)")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage} does not exist; choose 0, 1, 2 or 3")
        if self.checkpointing not in ("none", "blocks"):
            raise ValueError(f'checkpointing is "none" or "blocks", not {self.checkpointing!r}')
        if self.checkpointed_layers is not None:
            if self.checkpointing == "none":
                raise ValueError('checkpointed_layers needs checkpointing="blocks"')
            if self.checkpointed_layers < 1:
                raise ValueError('checkpointed_layers must be at least 1; for 0 say "none"')
        if self.tiled_mlp < 0:
            raise ValueError("tiled_mlp is a number of tiles, or 0 for an untiled MLP")

    def layers_to_checkpoint(self, model: Model) -> int:
        """How many blocks of the model are recomputed."""
        if self.checkpointing == "none":
            return 0
        return model.layers if self.checkpointed_layers is None else self.checkpointed_layers


FLAGS = ("sequence_parallel", "zero", "recompute", "tiled_mlp", "tiled_loss")
"""The flags of `sppo-bench emulate` for settings of DeepSpeed."""


def of_flags(given: Mapping[str, Any], workload: Workload) -> DeepSpeedSettings:
    """All ranks in one Ulysses group unless a degree is given. Raises ValueError."""
    recompute = given.get("recompute", "none")
    if recompute not in ("none", "full") and not recompute.isdecimal():
        raise ValueError(
            f"--recompute {recompute}: DeepSpeed takes none, full or a number of blocks"
        )
    return DeepSpeedSettings(
        sequence_parallel=given.get("sequence_parallel", workload.cluster.ranks),
        zero_stage=given.get("zero", 1),
        checkpointing="none" if recompute == "none" else "blocks",
        checkpointed_layers=int(recompute) if recompute.isdecimal() else None,
        tiled_mlp=given.get("tiled_mlp", 0),
        tiled_loss=given.get("tiled_loss", False),
    )

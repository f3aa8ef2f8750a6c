"""The settings of DeepSpeed in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sppo.config.models import Model
from sppo.config.workload import Workload

Checkpointing = Literal["none", "split", "save-attention", "blocks"]

HOSTABLE: tuple[Checkpointing, ...] = ("save-attention", "blocks")
"""The checkpointings of whole blocks, whose inputs a host tier may keep."""

FIRST_STEP_TOKENS = 64
"""The throw-away first step is this long (see `baselines.protocol.System.step`)."""


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSettings:
    """The settings that users of DeepSpeed tune for long sequences.

    sequence_parallel: the Ulysses degree; the remaining degree is data parallelism.
    checkpointing: in the first `checkpointed_layers` blocks (None: all) the backward recomputes
    everything ("blocks"), everything but attention ("save-attention"), or everything but attention
    and its all-to-alls ("split": one checkpoint before them, one behind).
    tiled_mlp: tiles per MLP (ALST's TiledMLP, which recomputes the MLP), 0 for none.
    tiled_loss: logits tile by tile (ALST's TiledFusedLogitsLoss, which recomputes nothing).
    overlap_comm: gradients are reduced beside the backward. None: DeepSpeed's default, ZeRO-3
    alone.
    host_hidden_states: the inputs of checkpointed blocks wait in host memory for the backward, by
    DeepSpeed's CheckpointHiddenStatesOffload, with CUDA alone. A restored input stays on the GPU
    until the backward's end. None: no.
    offload_optimizer: float32 weights, gradients and AdamW's state lie in pinned host memory, and
    the CPU takes the optimizer's step (ZeRO-Offload), with CUDA alone. None: no.
    fpdt: attention of FPDT, chunk by chunk with chunks on the host; refused, see the adapter.
    """

    sequence_parallel: int
    zero_stage: int = 1
    checkpointing: Checkpointing = "none"
    checkpointed_layers: int | None = None
    tiled_mlp: int = 0
    tiled_loss: bool = False
    overlap_comm: bool | None = None
    host_hidden_states: bool | None = None
    offload_optimizer: bool | None = None
    fpdt: bool | None = None

    def __post_init__(self) -> None:
        if self.sequence_parallel < 1:
            raise ValueError("sequence_parallel must be at least 1 (1 is no Ulysses)")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage} does not exist; choose 0, 1, 2 or 3")
        if self.checkpointing not in get_args(Checkpointing):
            known = ", ".join(get_args(Checkpointing))
            raise ValueError(f"checkpointing is one of {known}, not {self.checkpointing!r}")
        if self.checkpointed_layers is not None:
            if self.checkpointing == "none":
                raise ValueError("checkpointed_layers needs a checkpointing other than none")
            if self.checkpointed_layers < 1:
                raise ValueError('checkpointed_layers must be at least 1; for 0 say "none"')
        if self.tiled_mlp < 0:
            raise ValueError("tiled_mlp is a number of tiles, or 0 for an untiled MLP")
        if self.overlap_comm is not None and self.zero_stage == 0:
            raise ValueError("DeepSpeed ignores overlap_comm with ZeRO-0: leave the setting out")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("DeepSpeed offloads the optimizer of ZeRO-1, 2 and 3: choose a stage")
        if self.host_hidden_states and self.checkpointing not in HOSTABLE:
            raise ValueError(
                "this suite marks the inputs of whole blocks for host_hidden_states: recompute "
                f"full or save-attention, not {self.checkpointing}"
            )

    def layers_to_checkpoint(self, model: Model) -> int:
        """How many blocks of the model are recomputed."""
        if self.checkpointing == "none":
            return 0
        return model.layers if self.checkpointed_layers is None else self.checkpointed_layers


FLAGS = (
    *("sequence_parallel", "zero", "recompute", "tiled_mlp", "tiled_loss"),
    *("overlap_comm", "no_overlap_comm", "host_hidden_states", "offload_optimizer", "fpdt"),
)
"""The flags of `sppo-bench emulate` for settings of DeepSpeed."""

WORDS: Mapping[str, Checkpointing] = {
    "none": "none",
    "full": "blocks",
    "save-attention": "save-attention",
    "split": "split",
}
"""The words of `--recompute`; the records keep the word "blocks" for full recomputation."""


def of_flags(
    given: Mapping[str, Any], workload: Workload, recompute: str = "none"
) -> DeepSpeedSettings:
    """All ranks in one Ulysses group unless a degree is given. Raises ValueError.

    `--recompute` is a word, with `:N` for the first N blocks alone; a number N is `full:N`.
    `recompute`: the word if none is given.
    """
    words = given.get("recompute", recompute)
    name, _, count = f"full:{words}".partition(":") if words.isdecimal() else words.partition(":")
    if name not in WORDS or (count and not count.isdecimal()) or words.endswith(":"):
        raise ValueError(
            f"--recompute {words}: DeepSpeed takes {', '.join(WORDS)} or a number of blocks; "
            "save-attention:8 recomputes 8 blocks alone"
        )
    return DeepSpeedSettings(
        sequence_parallel=given.get("sequence_parallel", workload.cluster.ranks),
        zero_stage=given.get("zero", 1),
        checkpointing=WORDS[name],
        checkpointed_layers=int(count) if count else None,
        tiled_mlp=given.get("tiled_mlp", 0),
        tiled_loss=given.get("tiled_loss", False),
        overlap_comm=_overlap_of(given),
        host_hidden_states=given.get("host_hidden_states"),
        offload_optimizer=given.get("offload_optimizer"),
        fpdt=given.get("fpdt"),
    )


def _overlap_of(given: Mapping[str, Any]) -> bool | None:
    """On, off, or None for DeepSpeed's default. Raises ValueError for both."""
    if given.get("overlap_comm") and given.get("no_overlap_comm"):
        raise ValueError("--overlap-comm and --no-overlap-comm: give one of them")
    if given.get("no_overlap_comm"):
        return False
    return given.get("overlap_comm")

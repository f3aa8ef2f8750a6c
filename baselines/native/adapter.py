"""PyTorch native as a system: FSDP2, Ulysses and selective checkpointing, without a library.

Sharding, mixed precision and prefetch are FSDP2's own (`sharding.py`), as torchtitan applies them.
torchtitan itself shards its own model classes alone, so the row does not bear its name. The decoder
is plain torch (`model.py`), and Ulysses is ours (`ulysses.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from baselines.native.settings import FIRST_STEP_TOKENS, Checkpointing, NativeSettings
from baselines.protocol import Adapter, Context, Misfit, Role, Unavailable, Weights
from sppo.config.models import Model
from sppo.config.sizes import divisors
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.native.system import NativeSystem


class NativeAdapter(Adapter):
    """Builds `NativeSystem`; has the grid and the limits."""

    name = "native"
    settings_type = NativeSettings
    remark = "Ulysses: ours, on torch's functional all-to-all (torch ships ring attention alone)"

    def grid(self, workload: Workload) -> tuple[NativeSettings, ...]:
        """Least recomputation first. With one sequence a step, Ulysses takes all ranks."""
        return tuple(_grid(workload))

    def check(self, workload: Workload, settings: NativeSettings) -> None:
        """Raise Misfit or Unavailable, with the owner of the rule."""
        model, degree, ranks = workload.model, settings.sequence_parallel, workload.cluster.ranks
        if ranks % degree:
            raise Misfit(f"native: Ulysses {degree} does not divide {ranks} ranks")
        replicas = ranks // degree
        if workload.sequences_per_step % replicas:
            raise Misfit(
                f"native: {workload.sequences_per_step} sequences do not split over {replicas} "
                "replicas"
            )
        for tokens in (workload.sequence_tokens, FIRST_STEP_TOKENS):
            if tokens % degree:
                raise Misfit(f"native: {tokens} tokens do not split over Ulysses {degree}")
        self._check_heads(model, degree)
        if settings.layers_to_checkpoint(model) > model.layers:
            raise Unavailable(
                f"native: cannot checkpoint {settings.checkpointed_layers} of {model.layers} layers"
            )
        if workload.dtype == "float64" and workload.cluster.device == "cuda":
            raise Unavailable("torch's fused attention has no float64 on CUDA")

    def _check_heads(self, model: Model, degree: int) -> None:
        """Every rank has as many heads; fewer KV heads than ranks are copied."""
        if model.heads % degree:
            raise Unavailable(f"native: {model.heads} heads do not split over Ulysses {degree}")
        if model.kv_heads % degree and degree % model.kv_heads:
            raise Unavailable(
                f"native: {model.kv_heads} KV heads neither split over Ulysses {degree} nor "
                "divide it"
            )

    def roles(self, workload: Workload, settings: NativeSettings) -> tuple[Role, ...]:
        """One role for all ranks: FSDP2 pads shards to equal size, and rank 0 has full ones."""
        return (Role(name="every rank", rank=0, ranks=workload.cluster.ranks),)

    def describe(self, settings: NativeSettings) -> str:
        words = [f"Ulysses {settings.sequence_parallel}"]
        words.append("FSDP2" if settings.reshard_after_forward else "FSDP2 without reshard")
        if settings.checkpointing != "none":
            count = settings.checkpointed_layers
            blocks = "all blocks" if count is None else f"{count} block{'s' * (count > 1)}"
            words.append(f"checkpoint {blocks}{_SAVING[settings.checkpointing]}")
        return ", ".join(words)

    def versions(self) -> dict[str, str]:
        return {"torch": version("torch")}

    def prepare(
        self, workload: Workload, settings: NativeSettings, weights: Weights, context: Context
    ) -> NativeSystem:
        self.check(workload, settings)
        if context.ranks != workload.cluster.ranks:
            raise ValueError(f"{context.ranks} ranks are running, not {workload.cluster.ranks}")
        from baselines.native.system import NativeSystem

        return NativeSystem(workload, settings, weights, context)


_SAVING = {
    "save-attention": " but attention",
    "save-messages": " but attention and all-to-alls",
    "full": "",
}
"""What a checkpointing saves, in words."""


def _grid(workload: Workload) -> Iterator[NativeSettings]:
    """A block's full recomputation only in all blocks: it runs attention again, and saves least."""
    ranks, layers = workload.cluster.ranks, workload.model.layers
    degrees = [n for n in divisors(ranks) if workload.sequences_per_step % (ranks // n) == 0]
    quarters = sorted({layers * quarter // 4 for quarter in (1, 2, 3)} - {0, layers})
    for degree in reversed(degrees):
        kinds: list[Checkpointing] = ["save-attention"]
        if degree > 1:
            kinds.insert(0, "save-messages")
        choices: list[tuple[Checkpointing, int | None]] = [
            ("none", None),
            *((kind, count) for count in (*quarters, None) for kind in kinds),
            ("full", None),
        ]
        for checkpointing, count in choices:
            for reshard in (False, True):
                yield NativeSettings(
                    sequence_parallel=degree,
                    reshard_after_forward=reshard,
                    checkpointing=checkpointing,
                    checkpointed_layers=count,
                )


ADAPTER = NativeAdapter()

"""DeepSpeed as a system: Ulysses sequence parallelism, ZeRO and activation checkpointing.

The engine, its ZeRO optimizers, gradient clipping, `DistributedAttention` and the tiled MLP and
loss of ALST are DeepSpeed's own (`system.py`). The decoder around them is plain torch (`model.py`).

Checkpointing is torch's, as DeepSpeed advises without a tensor-parallel group. Its own
`deepspeed.checkpointing` adds partitions over tensor-parallel ranks, and a copy to the host that
fails on CPU tensors. Otherwise it does the same, with a reentrant backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from baselines.deepspeed.settings import FIRST_STEP_TOKENS, DeepSpeedSettings
from baselines.protocol import Adapter, Context, Misfit, Role, Unavailable, Weights
from sppo.config.models import Model
from sppo.config.sizes import divisors
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.deepspeed.system import DeepSpeedSystem


class DeepSpeedAdapter(Adapter):
    """Builds `DeepSpeedSystem`; has the grid and the library's limits."""

    name = "deepspeed"
    settings_type = DeepSpeedSettings

    def grid(self, workload: Workload) -> tuple[DeepSpeedSettings, ...]:
        """Cheapest step first: the fewest recomputed blocks, then the least ZeRO traffic.

        With one sequence a step, Ulysses takes all ranks.
        """
        return tuple(_grid(workload))

    def check(self, workload: Workload, settings: DeepSpeedSettings) -> None:
        """Raise Misfit or Unavailable where DeepSpeed fails, or trains on wrong tokens silently."""
        model, degree, ranks = workload.model, settings.sequence_parallel, workload.cluster.ranks
        if ranks % degree:
            raise Misfit(
                f"world_size ({ranks}) is not divisible by sequence_parallel_size {degree}"
            )
        replicas = ranks // degree
        if workload.sequences_per_step % replicas:
            raise Misfit(
                f"{workload.sequences_per_step} sequences do not split over {replicas} replicas"
            )
        if model.kv_heads < degree:
            self._check_copied_heads(model, degree)
        for tokens in (workload.sequence_tokens, FIRST_STEP_TOKENS):
            if tokens % degree:
                raise Misfit(
                    f"{tokens} tokens are not divisible by SP size {degree}: "
                    "DeepSpeed would train on something else without a word"
                )
        if settings.layers_to_checkpoint(model) > model.layers:
            raise Unavailable(
                f"cannot checkpoint {settings.checkpointed_layers} of {model.layers} layers"
            )
        if workload.dtype == "float64":
            raise Unavailable("DeepSpeed trains in float32, bfloat16 or float16, not in float64")

    def _check_copied_heads(self, model: Model, degree: int) -> None:
        """Fewer KV heads than ranks are copied; more may be divided unevenly (both are exact)."""
        if model.heads % degree:
            raise Unavailable(
                f"Attention head count {model.heads} is not divisible by SP size {degree}"
            )
        if degree % model.kv_heads:
            raise Unavailable(
                f"KV attention head count {model.kv_heads} is not divisible by SP size {degree} "
                "or vice versa"
            )

    def roles(self, workload: Workload, settings: DeepSpeedSettings) -> tuple[Role, ...]:
        """One role for all ranks: partitions are padded to equal size."""
        return (Role(name="every rank", rank=0, ranks=workload.cluster.ranks),)

    def describe(self, settings: DeepSpeedSettings) -> str:
        words = [f"Ulysses {settings.sequence_parallel}", f"ZeRO-{settings.zero_stage}"]
        if settings.checkpointing == "blocks":
            count = settings.checkpointed_layers
            words.append("checkpoint all blocks" if count is None else f"checkpoint {count} blocks")
        if settings.tiled_mlp:
            words.append(f"tiled MLP {settings.tiled_mlp}")
        if settings.tiled_loss:
            words.append("tiled loss")
        return ", ".join(words)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("deepspeed", "torch")}

    def prepare(
        self, workload: Workload, settings: DeepSpeedSettings, weights: Weights, context: Context
    ) -> DeepSpeedSystem:
        self.check(workload, settings)
        if context.ranks != workload.cluster.ranks:
            raise ValueError(f"{context.ranks} ranks are running, not {workload.cluster.ranks}")
        from baselines.deepspeed.system import DeepSpeedSystem

        return DeepSpeedSystem(workload, settings, weights, context)


def _grid(workload: Workload) -> Iterator[DeepSpeedSettings]:
    ranks, layers = workload.cluster.ranks, workload.model.layers
    degrees = [n for n in divisors(ranks) if workload.sequences_per_step % (ranks // n) == 0]
    quarters = sorted({layers * quarter // 4 for quarter in (1, 2, 3)} - {0, layers})
    for degree in reversed(degrees):
        for count in (0, *quarters, layers):
            for zero_stage in (0, 1, 2, 3):
                yield DeepSpeedSettings(
                    sequence_parallel=degree,
                    zero_stage=zero_stage,
                    checkpointing="blocks" if count else "none",
                    checkpointed_layers=None if count in (0, layers) else count,
                )
        # ALST's savers, where memory is shortest.
        for tiled_mlp in (0, 4):
            for zero_stage in (1, 3):
                yield DeepSpeedSettings(
                    sequence_parallel=degree,
                    zero_stage=zero_stage,
                    checkpointing="blocks",
                    tiled_mlp=tiled_mlp,
                    tiled_loss=True,
                )


ADAPTER = DeepSpeedAdapter()

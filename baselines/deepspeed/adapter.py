"""DeepSpeed as a system: Ulysses sequence parallelism, ZeRO and activation checkpointing.

The engine, its ZeRO optimizers, gradient clipping, `DistributedAttention` and the tiled MLP and
loss of ALST are DeepSpeed's own (`system.py`). The decoder around them is plain torch (`model.py`).

Checkpointing is torch's, as DeepSpeed advises without a tensor-parallel group. Its own
`deepspeed.checkpointing` adds partitions over tensor-parallel ranks. Otherwise it does the same,
with a reentrant backward. Hidden states in host memory (`CheckpointHiddenStatesOffload`) and the
optimizer there (`offload_optimizer`) are DeepSpeed's own, with CUDA alone.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from baselines.deepspeed.grid import choices, degrees, in_order
from baselines.deepspeed.settings import FIRST_STEP_TOKENS, DeepSpeedSettings
from baselines.protocol import Adapter, Context, Misfit, Role, Unavailable, Weights
from baselines.versions import version
from sppo.config.models import Model
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from baselines.deepspeed.system import DeepSpeedSystem

HOSTS_CUDA_ALONE = (
    "host_hidden_states is DeepSpeed's CheckpointHiddenStatesOffload, which moves tensors of CUDA "
    "alone and keeps those of a CPU on the device without a word; deepspeed-ours hosts checkpoints "
    "here"
)
"""The reason of a refusal, on a CPU and emulated."""

OFFLOADS_CUDA_ALONE = (
    "offload_optimizer is for CUDA alone, by a rule of this suite: on a CPU, and emulated, "
    "DeepSpeed would copy from host memory to host memory and save nothing"
)
"""The same for the optimizer."""

FPDT_NEEDS = (
    "DeepSpeed FPDT requires flash-attn (>=2.5, including 2.6.x and 2.7.x). Please install it with "
    "`pip install flash-attn --no-build-isolation`."
)
"""The words of DeepSpeed's FPDT_Attention."""

FPDT_NOT_HERE = (
    "fpdt: this suite has no decoder for DeepSpeed's FPDT_Attention, because it never ran on a GPU "
    "with flash-attn"
)


class DeepSpeedAdapter(Adapter):
    """Builds `DeepSpeedSystem`; has the grid and the library's limits."""

    name = "deepspeed"
    settings_type = DeepSpeedSettings

    def grid(self, workload: Workload) -> tuple[DeepSpeedSettings, ...]:
        """Cheapest step first: the least repeated work, then the least ZeRO traffic.

        With one sequence a step, Ulysses takes all ranks.
        """
        return tuple(
            settings
            for degree in degrees(workload)
            for settings in in_order(workload, choices(workload, degree))
        )

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
        if settings.fpdt:
            raise Unavailable(FPDT_NOT_HERE if find_spec("flash_attn") else f"fpdt: {FPDT_NEEDS}")
        if workload.cluster.device != "cuda":
            _check_on_a_cpu(settings)
        if settings.layers_to_checkpoint(model) > model.layers:
            raise Unavailable(
                f"cannot checkpoint {settings.checkpointed_layers} of {model.layers} layers"
            )
        if workload.dtype == "float64":
            raise Unavailable("DeepSpeed trains in float32, bfloat16 or float16, not in float64")

    def check_emulated(self, workload: Workload, settings: DeepSpeedSettings) -> None:
        """Raise Unavailable for what moves tensors of CUDA alone: an emulation's are a CPU's."""
        _check_on_a_cpu(settings)

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
        if settings.checkpointing != "none":
            count = settings.checkpointed_layers
            blocks = "all blocks" if count is None else f"{count} block{'s' * (count > 1)}"
            words.append(f"checkpoint {blocks}{_SAVING[settings.checkpointing]}")
        if settings.tiled_mlp:
            words.append(f"tiled MLP {settings.tiled_mlp}")
        if settings.tiled_loss:
            words.append("tiled loss")
        if settings.overlap_comm is not None:
            words.append(f"overlap_comm {'on' if settings.overlap_comm else 'off'}")
        if settings.host_hidden_states:
            words.append("hidden states on the host (CheckpointHiddenStatesOffload)")
        if settings.offload_optimizer:
            words.append("optimizer on the host (offload_optimizer)")
        if settings.fpdt:
            words.append("FPDT")
        return ", ".join(words)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("deepspeed", "torch")}

    def prepare(
        self, workload: Workload, settings: DeepSpeedSettings, weights: Weights, context: Context
    ) -> DeepSpeedSystem:
        self.check(workload, settings)
        if context.device.type != "cuda":
            _check_on_a_cpu(settings)
        return self._system(workload, settings, weights, context)

    def _system(
        self,
        workload: Workload,
        settings: DeepSpeedSettings,
        weights: Weights,
        context: Context,
        *,
        hosted: bool = False,
    ) -> DeepSpeedSystem:
        if context.ranks != workload.cluster.ranks:
            raise ValueError(f"{context.ranks} ranks are running, not {workload.cluster.ranks}")
        from baselines.deepspeed.system import DeepSpeedSystem

        return DeepSpeedSystem(workload, settings, weights, context, hosted=hosted)


def _check_on_a_cpu(settings: DeepSpeedSettings) -> None:
    """Raise Unavailable for what needs tensors of CUDA."""
    if settings.host_hidden_states:
        raise Unavailable(HOSTS_CUDA_ALONE)
    if settings.offload_optimizer:
        raise Unavailable(OFFLOADS_CUDA_ALONE)


_SAVING = {
    "split": " before and behind attention",
    "save-attention": " but attention",
    "blocks": "",
}
"""What a checkpointing saves, in words."""


ADAPTER = DeepSpeedAdapter()

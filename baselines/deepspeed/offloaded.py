"""The optimizer of ZeRO-Offload: it lies in host memory, and the CPU takes its step."""

from __future__ import annotations

import logging
from subprocess import SubprocessError
from typing import Any

import torch
from torch import nn

from baselines.reference import adamw
from sppo.config.workload import Optimizer

CPU_ADAM = "DeepSpeedCPUAdam"


def cpu_optimizer(model: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """DeepSpeed's AdamW of CPUs; torch's fused one where the operator of DeepSpeed does not build.

    The log of the rank says which. DeepSpeed needs `config_for` for torch's.
    """
    groups = adamw(model, recipe, fused=True)
    obstacle = _why_no_cpu_adam()
    if obstacle is not None:
        logging.getLogger(__name__).warning(
            "%s does not build here (%s): torch's AdamW takes the step on the CPU",
            CPU_ADAM,
            obstacle,
        )
        return groups
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    betas = recipe.beta1, recipe.beta2
    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(
        [_values(group) for group in groups.param_groups],
        lr=recipe.learning_rate,
        betas=betas,
        eps=recipe.epsilon,
    )
    return optimizer


def _values(group: dict[str, Any]) -> dict[str, Any]:
    return {name: group[name] for name in ("params", "weight_decay")}


def _why_no_cpu_adam() -> str | None:
    """The first line of the build's failure, or None."""
    from deepspeed.ops.op_builder import CPUAdamBuilder
    from deepspeed.ops.op_builder.builder import CUDAMismatchException, MissingCUDAException

    absent = ImportError, OSError, RuntimeError, SubprocessError
    try:
        CPUAdamBuilder().load(verbose=False)
    except (*absent, CUDAMismatchException, MissingCUDAException) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def config_for(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the engine's configuration must say of this optimizer on the host."""
    return {"zero_force_ds_cpu_optimizer": type(optimizer).__name__ == CPU_ADAM}

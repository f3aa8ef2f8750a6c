"""DeepSpeed's configuration of a step."""

from __future__ import annotations

import math
from typing import Any

from baselines.deepspeed.settings import DeepSpeedSettings
from sppo.config.models import Model
from sppo.config.workload import Workload
from sppo.plan.blocks import block_of


def bucket_elements(model: Model) -> int:
    """One block, or the largest matrix: DeepSpeed's defaults are made for models of billions.

    Its reduction bucket would take 1.9 GiB whatever the model; and with its other thresholds
    ZeRO-3 would neither partition nor release anything of a small model.
    """
    block = sum(math.prod(weight.shape) for weight in block_of(model).weights.values())
    return max(block, model.vocabulary * model.hidden)


def engine_config(
    workload: Workload, settings: DeepSpeedSettings, accumulate: int
) -> dict[str, Any]:
    """The DeepSpeed configuration of these settings."""
    model = workload.model
    bucket = bucket_elements(model)
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "reduce_bucket_size": min(500_000_000, bucket),
        "allgather_bucket_size": min(500_000_000, bucket),
    }
    if settings.overlap_comm is not None:
        zero["overlap_comm"] = settings.overlap_comm
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.zero_stage == 3:
        vectors = max(model.ffn, model.hidden + 2 * model.kv_width)
        zero["stage3_prefetch_bucket_size"] = min(50_000_000, bucket)
        zero["stage3_param_persistence_threshold"] = min(100_000, vectors + 1)
        zero["stage3_max_live_parameters"] = min(1_000_000_000, 2 * bucket)
        zero["stage3_max_reuse_distance"] = min(1_000_000_000, 2 * bucket)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": workload.optimizer.clip_norm,
        "zero_optimization": zero,
        "steps_per_print": 1_000_000_000,
    }
    if workload.dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
        # ZeRO-1 would take another optimizer for this, which fails on every Ulysses rank but 0.
        if accumulate > 1 and settings.zero_stage >= 2:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config

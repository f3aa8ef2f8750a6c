"""Megatron-Core's degrees of parallelism, combined on four real ranks, against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from baselines.megatron.settings import MegatronSettings
from sppo.config.workload import Cluster
from tests.distributed.test_megatron import (
    MLP_AND_NORMS,
    PP,
    SAVED,
    TP_SP,
    VP,
    WORKLOADS,
    Layouts,
    check_exact,
    context_of,
    train,
)
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow

FOUR_RANKS = {
    "gpt": (replace(TP_SP, context_parallel=2, distributed_optimizer=True, **MLP_AND_NORMS),),
    "gpt, four sequences a step": (
        replace(TP_SP, pipeline_parallel=2, virtual_pipeline=2, recompute="full"),
        replace(VP, context_parallel=2, distributed_optimizer=True, **SAVED),
        MegatronSettings(pipeline_parallel=4, recompute="full"),
    ),
    "eight layers": (MegatronSettings(pipeline_parallel=4, virtual_pipeline=2),),
}
"""TP x CP, TP x PP, PP x CP, and a pipeline whose neighbours are different ranks."""

FURTHER = {
    "gpt": (
        MegatronSettings(tensor_parallel=2, context_parallel=2, sequence_parallel=True),
        replace(TP_SP, context_parallel=2, distributed_optimizer=True, **SAVED),
    ),
    "gpt, four sequences a step": (replace(PP, virtual_pipeline=2, distributed_optimizer=True),),
    "eight layers, six sequences a step": (
        MegatronSettings(pipeline_parallel=4, virtual_pipeline=2),
        replace(VP, tensor_parallel=2, sequence_parallel=True),
    ),
}
"""Cases of `tox -e soak-cases`; PP x DP too."""


def on_one_of_four(rank: int, ranks: int, by_workload: Layouts) -> dict[str, Any]:
    context = context_of(rank, ranks)
    cluster = Cluster(hardware="test", device="cpu", nodes=1, ranks_per_node=ranks)
    return {
        name: [
            train(replace(WORKLOADS[name], cluster=cluster), settings, context)
            for settings in layouts
        ]
        for name, layouts in by_workload.items()
    }


@pytest.mark.parametrize(
    "by_workload", [FOUR_RANKS, pytest.param(FURTHER, marks=pytest.mark.soak)], ids=("", "further")
)
def test_combined_degrees_match_the_reference(by_workload: Layouts) -> None:
    """Everything in one launch: importing the library costs more than training here."""
    launched = run_ranks(on_one_of_four, 4, by_workload)
    for name, layouts in by_workload.items():
        check_exact(layouts, launched, name)

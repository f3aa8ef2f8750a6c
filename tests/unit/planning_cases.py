"""The workload and profile that the planner's tests share."""

from __future__ import annotations

from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload
from sppo.planner.options import SolverOptions

PROFILE = load_hardware("cpu-2core")

TINY = Workload(
    name="tiny",
    model=MODELS["gpt-tiny"],
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
    sequence_tokens=4096,
)

RESIDENT = SolverOptions(kv_offload=False)
"""K and V stay on the device."""

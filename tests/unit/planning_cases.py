"""The workload and profile that the planner's tests share."""

from __future__ import annotations

from sppo.options import SolverOptions
from sppo.profile import load_profile
from sppo.workload import MODELS, Cluster, Workload

PROFILE = load_profile("cpu-2core")

TINY = Workload(
    name="tiny",
    model=MODELS["gpt-tiny"],
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
    sequence_tokens=4096,
)

RESIDENT = SolverOptions(kv_offload=False)
"""K and V stay on the device."""

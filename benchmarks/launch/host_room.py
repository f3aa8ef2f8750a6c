"""Whether a node has the host memory that its ranks' plans take, before a rank starts."""

from __future__ import annotations

from benchmarks.job import Job
from sppo.offload.host_limits import check_available
from sppo.plan.plan import Plan


def host_bytes(plan: Plan, ranks_per_node: int) -> int:
    """Bytes of the host tier of all ranks of a node; the most of any node."""
    by_stage = [stage.memory.host + stage.memory.kv_host for stage in plan.stages]
    shards, stages = plan.sequence_parallel, plan.pipeline_parallel
    by_rank = [by_stage[rank // shards % stages] for rank in range(plan.ranks)]
    firsts = range(0, plan.ranks, ranks_per_node)
    return max(sum(by_rank[first : first + ranks_per_node]) for first in firsts)


def check_host(job: Job) -> None:
    """Raise HostTierFull, in one line with the cure, where this node has too little left."""
    if job.plans is None:
        return
    ranks = job.workload.cluster.ranks_per_node
    needed_bytes = host_bytes(job.plans.whole, ranks)
    if needed_bytes:
        check_available(needed_bytes, f"the host tier of a node's {ranks} ranks")

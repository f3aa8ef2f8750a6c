"""What a launcher would tell a rank of a cluster that is not there. No torch."""

from __future__ import annotations

from sppo.config.workload import Cluster


def variables(rank: int, cluster: Cluster) -> dict[str, str]:
    """A place in the cluster, and no GPU: numbers are the same on machines with and without one."""
    return {
        "CUDA_VISIBLE_DEVICES": "",
        "RANK": str(rank),
        "WORLD_SIZE": str(cluster.ranks),
        "LOCAL_RANK": str(rank % cluster.ranks_per_node),
        "LOCAL_WORLD_SIZE": str(cluster.ranks_per_node),
    }

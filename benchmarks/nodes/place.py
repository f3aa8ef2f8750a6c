"""The place of this command among the nodes of a run: from flags, or from SLURM's variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_PORT = 20_000
PORTS = 10_000
"""Ports of SLURM steps: below those that Linux gives out by itself (ip_local_port_range)."""

_ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


ONE_NODE = "for one node give --nodes 1"
"""The way out of a step whose nodes are not meant, such as a shell of srun."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of `count` nodes. `host` and `port` are those of node 0.

    job: the SLURM step, "" without SLURM.
    """

    count: int
    rank: int
    host: str
    port: int
    job: str = ""

    @property
    def endpoint(self) -> str:
        """ "host:port" of node 0."""
        return f"{self.host}:{self.port}"


def of_flags(count: int, rank: int | None, endpoint: str | None) -> Place:
    """The place that the flags name. Raises ValueError with the cure."""
    missing = [
        flag for flag, value in (("--node-rank", rank), ("--endpoint", endpoint)) if value is None
    ]
    if missing or rank is None or endpoint is None:
        raise ValueError(
            f"{' and '.join(missing)} missing: start the command on every node with --nodes "
            f"{count} --node-rank R --endpoint HOST:PORT, R from 0 to {count - 1}, HOST an "
            "address of node 0"
        )
    if not 0 <= rank < count:
        raise ValueError(f"--node-rank {rank}: {count} nodes have the ranks 0 to {count - 1}")
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"]) < 65_536:
        raise ValueError(
            f"--endpoint {endpoint!r}: give HOST:PORT, a name or IPv4 address of node 0 and a "
            "port from 1 to 65535"
        )
    return Place(count=count, rank=rank, host=match["host"], port=int(match["port"]))


def of_slurm(variables: Mapping[str, str]) -> Place | None:
    """The place of a task of `srun` on several nodes; None elsewhere.

    A batch script and a shell of `salloc` are no step of several nodes. Raises ValueError with the
    cure unless every node has one task.
    """
    if "SLURM_STEP_ID" not in variables:
        return None
    count = _number(variables, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    if count < 2:
        return None
    tasks = _number(variables, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    if tasks != count:
        raise ValueError(
            f"srun has started {tasks} tasks on {count} nodes: start one a node by "
            f"srun --nodes {count} --ntasks-per-node 1; {ONE_NODE}"
        )
    host = first_host(variables)
    job, step = _number(variables, "SLURM_JOB_ID"), _number(variables, "SLURM_STEP_ID")
    restarts = variables.get("SLURM_RESTART_COUNT", "0")
    return Place(
        count=count,
        rank=_number(variables, "SLURM_NODEID"),
        host=host,
        port=FIRST_PORT + (16 * job + step) % PORTS,
        job=f"{job}.{step}.{restarts}",
    )


def first_host(variables: Mapping[str, str]) -> str:
    """The name of node 0 from SLURM's list of hosts, "gpu[03-04,7],login" -> "gpu03".

    Raises ValueError without a list.
    """
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    listed = next((variables[name] for name in names if variables.get(name)), "")
    if not listed:
        address = variables.get("SLURM_LAUNCH_NODE_IPADDR", "")
        if not address:
            raise ValueError(
                "SLURM names no host of node 0: give --nodes, --node-rank and --endpoint; "
                f"{ONE_NODE}"
            )
        return address
    match = re.match(r"([^,\[]*)(?:\[(\d+)[^\]]*\]([^,\[]*))?", listed)
    assert match is not None, "every part may be empty"
    return "".join(filter(None, match.groups()))


def _number(variables: Mapping[str, str], *names: str) -> int:
    """The first of these variables. Raises ValueError without one that is a number."""
    for name in names:
        value = variables.get(name, "")
        if value.isdecimal():
            return int(value)
    raise ValueError(f"{names[0]} is not set to a number: start the command by srun; {ONE_NODE}")

"""The place of this command among the nodes of a run: from flags, SLURM, or variables of pods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

FIRST_PORT = 20_000
PORTS = 10_000
"""Ports of SLURM steps: below those that Linux gives out by itself (ip_local_port_range)."""

_ENDPOINT = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>\d{1,5})", re.ASCII)

OF_TORCHRUN = ("PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
"""Options of torchrun as variables, which Kubeflow sets for each pod: a pod is a node."""

OF_A_POD = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")
"""The same of older Kubeflow (PyTorchJob v1), whose WORLD_SIZE counts pods."""

IN_A_POD = "KUBERNETES_SERVICE_HOST"
"""Kubernetes sets this variable in every container."""

OF_A_PROCESS = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Launchers of processes set these, and torchrun TORCHELASTIC_...: no process of theirs is a node.
"""


ONE_NODE = "for one node give --nodes 1"
"""The way out of a step whose nodes are not meant, such as a shell of srun."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of `count` nodes. `host` and `port` are those of node 0.

    job: the SLURM step, "" without SLURM. source: the variables that gave the place, "" for flags
    and SLURM.
    """

    count: int
    rank: int
    host: str
    port: int
    job: str = ""
    source: str = ""

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


def outside(variables: Mapping[str, str]) -> Place | None:
    """The place that a launcher outside gives; None without several nodes. Raises ValueError."""
    if "SLURM_JOB_ID" in variables or "SLURM_STEP_ID" in variables:
        return of_slurm(variables)
    return of_pods(variables)


def of_pods(variables: Mapping[str, str]) -> Place | None:
    """The place of a pod of several, as Kubeflow sets it; None unless complete and consistent.

    Sources: pkg/constants of Kubeflow Trainer 2, and pkg/controller.v1/pytorch of its Training
    Operator.
    """
    if any(name in OF_A_PROCESS or name.startswith("TORCHELASTIC_") for name in variables):
        return None
    if any(name.startswith("PET_") for name in variables):
        names = OF_TORCHRUN
    elif IN_A_POD in variables:
        names = OF_A_POD
    else:
        return None
    count, rank, host, port = (variables.get(name, "") for name in names)
    if not all(text.isascii() and text.isdecimal() for text in (count, rank, port)):
        return None
    if int(count) < 2 or host == "localhost" or host.startswith("127."):
        return None
    try:
        place = of_flags(int(count), int(rank), f"{host}:{port}")
    except ValueError:
        return None
    return replace(place, source=f"{', '.join(names[:-1])} and {names[-1]}")


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

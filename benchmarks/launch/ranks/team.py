"""The nodes of a launch, and what a launcher asks of the other nodes, if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.job import Job
from benchmarks.launch.options import Options
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes of a launch, as one of them sees them.

    endpoint: "host:port" of node 0, where torchrun meets. variables: of this node's ranks.
    """

    count: int = 1
    rank: int = 0
    endpoint: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


ONE_NODE = Nodes()


class NodeFailed(Exception):
    """The ranks of another node have failed, and those here did not end by themselves."""


class NodeLost(ConnectionError):
    """A node does not answer any more, so no launch can follow. The message names the node."""


class Team(Protocol):
    """The other nodes of all launches of a command, be it a run or a study."""

    def prepare(self, workload: Workload, options: Options) -> None:
        """Have every node write weights and tokens; `check_inputs` waits for them.

        Raises NodeLost.
        """
        ...

    def check_inputs(self, digests: Mapping[str, str], limit_seconds: float) -> None:
        """Wait for the inputs that were asked for last. digests: SHA-256 of "weights", "tokens".

        Raises ValueError for a node whose files differ, OSError for one that could not write them,
        or NodeLost where none come in time.
        """
        ...

    def describe(self, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The environment of every node, node 0 with this one; empty for one node."""
        ...

    def begin(self, job: Job, environment: Mapping[str, str], limit_seconds: float) -> Nodes:
        """Have every node start its ranks; the nodes as this one sees them. Raises NodeLost."""
        ...

    def check(self) -> None:
        """Called while the ranks run. Raises NodeLost, or NodeFailed."""
        ...

    def read_notes(self) -> None:
        """Copy the notes of all ranks into the folder of the launch, while the ranks run."""
        ...

    def finish(self, code: int | None) -> str:
        """Wait for the ends of all nodes, and copy their files into the folder of the launch.

        code: the exit code of the ranks here, None where they were stopped. The reason of a node
        that could not launch, else "".
        """
        ...

    def require_all(self) -> None:
        """Called before a launch is judged. Raises NodeLost where a node is gone."""
        ...


class Alone:
    """The team of one node: nobody to ask."""

    def prepare(self, workload: Workload, options: Options) -> None:
        """All inputs are here."""

    def check_inputs(self, digests: Mapping[str, str], limit_seconds: float) -> None:
        """No other inputs can differ."""

    def describe(self, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
        """No node but this one."""
        return []

    def begin(self, job: Job, environment: Mapping[str, str], limit_seconds: float) -> Nodes:
        """All ranks are here."""
        return ONE_NODE

    def check(self) -> None:
        """No node can fail."""

    def read_notes(self) -> None:
        """All notes are here."""

    def finish(self, code: int | None) -> str:
        """All files are here."""
        return ""

    def require_all(self) -> None:
        """No node can be gone."""


ALONE = Alone()

"""The other nodes of a run, for node 0: they get the inputs, start ranks, and send their files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Job
from benchmarks.launch.options import Options
from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks.team import ONE_NODE, NodeFailed, NodeLost, Nodes
from benchmarks.nodes import files
from benchmarks.nodes.addresses import free_port, network_variables, resolved
from benchmarks.nodes.channel import Lost
from benchmarks.nodes.head import SAYING_SECONDS, Node, Unequal
from benchmarks.nodes.messages import (
    AskNotes,
    Close,
    Ended,
    File,
    Launch,
    Leave,
    Message,
    NotesSent,
    Prepare,
    Prepared,
    Stop,
)
from benchmarks.nodes.place import Place
from benchmarks.records import store
from sppo.config.workload import Workload

FAILED_SECONDS = 10.0
"""How long the ranks here may go on after those of another node have failed."""

NOTES_SECONDS = 5.0
"""How long a node may take to send its notes."""

END_SECONDS = 60.0
"""How long a node may take to end after the ranks here; from its stop half of that."""

CLOSE_SECONDS = 0.2
"""From the last message to the end of the connection."""


@dataclass(kw_only=True)
class Crew:
    """The other nodes, a `Team` of `benchmarks.launch.ranks.team`.

    nodes: in the order of their ranks. say: prints a line. lost: why a node is gone, by rank.
    exit_code: with which all commands end.
    """

    place: Place
    nodes: Sequence[Node]
    say: Callable[[str], None]
    number: int = 0
    job: Job | None = None
    ended: dict[int, Ended] = field(default_factory=dict)
    noted: set[int] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)
    events: list[rank_ends.RankEnd | rank_ends.Stop] = field(default_factory=list)
    failed_at: float | None = None
    exit_code: int = 1

    def describe(self, environment: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As `Team.describe`."""
        own = {"node": 0, "address": resolved(self.place.host), **environment}
        others = [
            {"node": node.rank, "address": node.address, **node.hello.environment}
            for node in self.nodes
        ]
        return [own, *others]

    def prepare(self, workload: Workload, options: Options) -> None:
        """As `Team.prepare`."""
        for node in self.nodes:
            self._send(node, Prepare(workload=workload, options=options))

    def check_inputs(self, digests: Mapping[str, str], limit_seconds: float) -> None:
        """As `Team.check_inputs`."""
        deadline = time.monotonic() + limit_seconds
        for node in self.nodes:
            message = self._prepared(node, deadline, limit_seconds)
            if message.problem:
                raise OSError(f"{node}: {message.problem}")
            for name, sha256 in digests.items():
                if getattr(message, f"{name}_sha256") != sha256:
                    raise Unequal(
                        f"{node}: its {name} are not those of node 0; give the same data (--data) "
                        "and libraries on all nodes"
                    )

    def _prepared(self, node: Node, deadline: float, limit_seconds: float) -> Prepared:
        """The answer of a node to `Prepare`, and a line now and then. Raises NodeLost."""
        while time.monotonic() < deadline:
            pause_end = min(deadline, time.monotonic() + SAYING_SECONDS)
            while (pause := pause_end - time.monotonic()) > 0:
                message = self._next(node, pause)
                if isinstance(message, Prepared):
                    return message
            left = max(deadline - time.monotonic(), 0.0)
            self.say(f"node 0 waits for weights and tokens of {node}, {left:.0f} s")
        raise self._lose(node, f"no weights and tokens after {limit_seconds:.0f} s")

    def begin(self, job: Job, environment: Mapping[str, str], limit_seconds: float) -> Nodes:
        """As `Team.begin`. A launch of one rank stays on node 0."""
        self.check()
        if self.job is not None:
            self.finish(None)  # node 0 could not start its own ranks
        if job.ranks == 1:
            return ONE_NODE
        address = resolved(self.place.host)
        endpoint = f"{address}:{free_port(address)}"
        self.number += 1
        self.job, self.failed_at = job, None
        self.ended, self.noted, self.events = {}, set(), []
        for node in self.nodes:
            message = Launch(
                number=self.number,
                job=job,
                environment=dict(environment),
                endpoint=endpoint,
                limit_seconds=limit_seconds,
            )
            self._send(node, message)
        return Nodes(
            count=self.place.count,
            endpoint=endpoint,
            variables=network_variables(address),
        )

    def check(self) -> None:
        """As `Team.check`."""
        for node in self.nodes:
            while self._next(node, 0) is not None:
                pass
        if self.job is not None and any(end.code != 0 for end in self.ended.values()):
            now = time.monotonic()
            self.failed_at = self.failed_at or now
            if now - self.failed_at > FAILED_SECONDS:
                raise NodeFailed

    def read_notes(self) -> None:
        """As `Team.read_notes`. A node that is lost has none."""
        deadline = time.monotonic() + NOTES_SECONDS
        for node in self._running():
            with suppress(NodeLost):
                self._send(node, AskNotes(number=self.number))
                self._wait(node, self.noted, deadline)

    def finish(self, code: int | None) -> str:
        """As `Team.finish`. Where the ranks here did not end well, all are stopped."""
        if self.job is None:
            return ""
        for seconds, stops in ((END_SECONDS, code != 0), (END_SECONDS / 2, True)):
            deadline = time.monotonic() + seconds
            for node in self._running() if stops else ():
                with suppress(NodeLost):
                    self._send(node, Stop(number=self.number))
            for node in self._running():
                with suppress(NodeLost):
                    self._wait(node, self.ended, deadline)
        self._merge_ends(Path(self.job.output_directory), code)
        self.job = None
        problems = [
            f"{node}: {self.ended[node.rank].problem}"
            for node in self.nodes
            if node.rank in self.ended and self.ended[node.rank].problem
        ]
        silent = [f"{node} did not stop" for node in self._running()]
        return next(iter((*problems, *silent)), "")

    def require_all(self) -> None:
        """As `Team.require_all`."""
        if self.lost:
            raise NodeLost(next(iter(self.lost.values())))

    def close(self, code: int) -> None:
        """End the commands of all nodes with this exit code."""
        for node in self.nodes:
            with suppress(Lost):
                node.channel.send(Close(code=code))
        time.sleep(CLOSE_SECONDS)
        for node in self.nodes:
            node.channel.close()

    def _running(self) -> list[Node]:
        return [node for node in self.nodes if node.rank not in {*self.ended, *self.lost}]

    def _send(self, node: Node, message: Message) -> None:
        """Raises NodeLost."""
        try:
            node.channel.send(message)
        except Lost as lost:
            raise self._lose(node, str(lost)) from None

    def _wait(self, node: Node, done: Mapping[int, Ended] | set[int], deadline: float) -> None:
        """Take the messages of a node until it is `done`. Raises NodeLost."""
        while node.rank not in done and (left := deadline - time.monotonic()) > 0:
            self._next(node, left)

    def _next(self, node: Node, seconds: float | None) -> Message | None:
        """The next message of a node, its effect taken. Raises NodeLost."""
        if node.rank in self.lost:
            raise NodeLost(self.lost[node.rank])
        try:
            message = node.channel.get(seconds)
            if isinstance(message, (File, NotesSent, Ended)):
                self._take(node, message)
        except (Lost, files.WrongFile) as error:
            raise self._lose(node, str(error)) from None
        if isinstance(message, Leave):
            raise self._lose(node, message.reason)
        return message

    def _lose(self, node: Node, why: str) -> NodeLost:
        self.lost[node.rank] = f"{node} is gone: {why}"
        return NodeLost(self.lost[node.rank])

    def _take(self, node: Node, message: File | NotesSent | Ended) -> None:
        """Take what belongs to the launch that runs. Raises WrongFile, or OSError."""
        if self.job is None or message.number != self.number:
            return
        if isinstance(message, NotesSent):
            self.noted.add(node.rank)
        elif isinstance(message, Ended):
            self.ended[node.rank] = message
        else:
            directory = Path(self.job.output_directory)
            ranks = self.job.ranks // self.place.count
            content = files.take(message, directory, node.rank, ranks)
            self.events += rank_ends.decode(content)

    def _merge_ends(self, directory: Path, code: int | None) -> None:
        """All ends in one file, by time, without the stops that came from the suite itself."""
        stopped = {rank for rank, end in self.ended.items() if end.code is None}
        events = [
            event for event in rank_ends.read(directory) if code is not None or _is_own(event)
        ]
        events += [event for event in self.events if not stopped or _is_own(event)]
        events.sort(key=lambda event: event.time_ns)
        lines = [msgspec.json.encode(event) + b"\n" for event in events]
        if os.path.isdir(directory):
            store.write_bytes(directory / rank_ends.FILE_NAME, *lines)


def _is_own(event: rank_ends.RankEnd | rank_ends.Stop) -> bool:
    """Whether an event is no signal to torchrun."""
    return isinstance(event, rank_ends.RankEnd) or not event.signal

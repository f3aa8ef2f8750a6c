"""Node 0 waits for the other nodes, and lets nothing start unless all are there and equal."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.nodes.addresses import listen
from benchmarks.nodes.channel import GREETING_SECONDS, Channel, Lost, WrongToken, greet
from benchmarks.nodes.facts import Facts, difference
from benchmarks.nodes.messages import Hello, Message, Refused, Welcome
from benchmarks.nodes.place import ONE_NODE, Place

SAYING_SECONDS = 20.0
"""How often node 0 says for which nodes it waits, at the start and for their inputs."""


@dataclass(kw_only=True)
class Node:
    """Another node, as node 0 sees it."""

    hello: Hello
    channel: Channel
    address: str

    @property
    def rank(self) -> int:
        """The node's rank, 1 and up."""
        return self.hello.rank

    def __str__(self) -> str:
        """ "node 1 (gpu02, 10.0.0.2)"."""
        return f"node {self.rank} ({self.hello.facts.host}, {self.address})"


class Unequal(ValueError):
    """The nodes differ, so nothing starts. The message is one line with the cure."""


def gather(
    place: Place, token: str, facts: Facts, wait_seconds: float, say: Callable[[str], None]
) -> list[Node]:
    """The other nodes, by rank, each of which knows the token and is like this one.

    Raises ValueError where one does not come in time, or differs. All are then told why.
    """
    nodes: dict[int, Node] = {}
    with listen(place) as listener:
        try:
            _wait(listener, nodes, place, token, wait_seconds, say)
            for rank in sorted(nodes):
                words = nodes[rank].hello.problem or difference(facts, nodes[rank].hello.facts)
                if words:
                    raise Unequal(f"{nodes[rank]}: {words}")
            _tell(nodes, Welcome())
        except BaseException as error:
            reason = str(error) if isinstance(error, ValueError) else "node 0 was stopped"
            _dismiss(nodes, Refused(reason=reason))
            raise
    return [nodes[rank] for rank in sorted(nodes)]


def _wait(
    listener: socket.socket,
    nodes: dict[int, Node],
    place: Place,
    token: str,
    wait_seconds: float,
    say: Callable[[str], None],
) -> None:
    """Take connections until all nodes are there. Raises ValueError."""
    began, said = time.monotonic(), 0.0
    way_out = f"; {ONE_NODE}" if place.job or place.source else ""
    while missing := _missing(nodes, place, say):
        waited = time.monotonic() - began
        names = f"node {', '.join(map(str, missing))}"
        if waited >= wait_seconds:
            raise ValueError(
                f"{names} did not come to {place.endpoint} within {wait_seconds:.0f} s: look at "
                f"its output, start it, or give a longer --node-wait{way_out}"
            )
        if not said or waited - said >= SAYING_SECONDS:
            said = waited or 1e-9
            where = f"{place.endpoint}, {wait_seconds - waited:.0f} s"
            say(f"node 0 waits for {names} at {where}{way_out}")
        listener.settimeout(min(1.0, max(wait_seconds - waited, 0.01)))
        with suppress(TimeoutError, ConnectionError):  # a stranger may be gone already
            connection, (address, _) = listener.accept()
            left = wait_seconds - (time.monotonic() - began)
            node = _greeted(connection, str(address), token, max(left, 0.0), say)
            if node is not None:
                _take(node, nodes, place, say)


def _missing(nodes: dict[int, Node], place: Place, say: Callable[[str], None]) -> list[int]:
    """The ranks that have not come. A node that has ended meanwhile is dropped, and may return."""
    for node in list(nodes.values()):
        try:
            node.channel.get(0)
        except Lost as lost:
            say(f"{node} has ended while others were awaited ({lost}): start it anew")
            node.channel.close()
            del nodes[node.rank]
    return [rank for rank in range(1, place.count) if rank not in nodes]


def _greeted(
    connection: socket.socket, address: str, token: str, left: float, say: Callable[[str], None]
) -> Node | None:
    """The node of a connection, greeted within `left` seconds. A stranger is refused, and said."""
    deadline = time.monotonic() + min(left, GREETING_SECONDS)
    try:
        channel = greet(connection, token, is_head=True, seconds=min(left, GREETING_SECONDS))
        hello = channel.get(max(deadline - time.monotonic(), 0.0))
    except (WrongToken, OSError):
        say(f"{address} was refused: it has another token, or is no command of this suite")
        connection.close()
        return None
    if isinstance(hello, Hello):
        return Node(hello=hello, channel=channel, address=address)
    reason = f"it did not name its node within {GREETING_SECONDS:.0f} s: start it anew"
    say(f"{address} was refused: {reason}")
    _end(channel, Refused(reason=reason))
    return None


def _take(node: Node, nodes: dict[int, Node], place: Place, say: Callable[[str], None]) -> None:
    """Add a node, unless its rank is taken. Raises Unequal for another number of nodes."""
    if node.hello.nodes != place.count:
        reason = (
            f"{node} was started for {node.hello.nodes} nodes, node 0 for {place.count}; give the "
            "same --nodes on all nodes"
        )
        _end(node.channel, Refused(reason=reason))
        raise Unequal(reason)
    if node.rank not in _missing(nodes, place, say):
        reason = "another command has its rank: give each node its own --node-rank"
        say(f"{node.address} was refused: {reason}")
        _end(node.channel, Refused(reason=reason))
        return
    nodes[node.rank] = node
    say(f"{node} is there")


def _tell(nodes: dict[int, Node], message: Message) -> None:
    """Raises ValueError where a node has gone meanwhile."""
    for node in nodes.values():
        try:
            node.channel.send(message)
        except Lost as lost:
            raise ValueError(f"{node} is gone: {lost}; start all nodes anew") from None


def _dismiss(nodes: dict[int, Node], message: Refused) -> None:
    for node in nodes.values():
        _end(node.channel, message)


def _end(channel: Channel, message: Refused) -> None:
    with suppress(Lost):
        channel.send(message)
    channel.close()

"""The connection of two nodes, and how node 0 gathers the others, over loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from benchmarks.nodes import channel as channels
from benchmarks.nodes import follower, head
from benchmarks.nodes.addresses import free_port
from benchmarks.nodes.channel import Channel, Lost, WrongToken, greet
from benchmarks.nodes.head import Node
from benchmarks.nodes.messages import Close, Hello, Stop
from benchmarks.nodes.place import Place
from tests.unit.test_nodes import FACTS

TOKEN = "a token of sixteen or more"


@contextmanager
def pair(head_token: str = TOKEN, node_token: str = TOKEN) -> Iterator[tuple[Channel, Channel]]:
    """Both ends of a connection after the greeting."""
    ends = socket.socketpair()
    with ThreadPoolExecutor() as pool:
        one = pool.submit(greet, ends[0], head_token, is_head=True)
        other = pool.submit(greet, ends[1], node_token, is_head=False)
        error = other.exception()
        if error is not None:
            ends[1].close()
            one.exception()
            ends[0].close()
            raise error
    try:
        yield one.result(), other.result()
    finally:
        one.result().close()
        other.result().close()


def test_messages_arrive_in_order_with_their_types() -> None:
    with pair() as (one, other):
        for number in range(3):
            one.send(Stop(number=number))
        assert [other.get(5) for _ in range(3)] == [Stop(number=number) for number in range(3)]
        other.send(Close(code=3))
        assert one.get(5) == Close(code=3)
        assert one.get(0) is None


def test_another_token_is_refused_by_both() -> None:
    with pytest.raises(WrongToken), pair(node_token="another token of that length"):
        pass


def test_the_token_is_never_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        done = pool.submit(greet, ours, TOKEN, is_head=False)
        heard = theirs.recv(4096)
        theirs.close()
        assert isinstance(done.exception(), OSError)
    assert TOKEN.encode() not in heard


@pytest.mark.parametrize("kind", ["changed", "repeated", "too long", "another type"])
def test_a_frame_that_is_not_right_loses_the_connection(kind: str) -> None:
    with pair() as (one, other):
        data = msgspec.json.encode(Stop(number=1))
        code = one._code(b"head", 0, data)
        if kind == "changed":
            data = msgspec.json.encode(Stop(number=2))
        if kind == "another type":
            data = b'{"message":"pickle"}'
            code = one._code(b"head", 0, data)
        length = channels.LONGEST_FRAME + 1 if kind == "too long" else len(data)
        frame = struct.pack(">I", length) + code + data
        one.connection.sendall(frame * (2 if kind == "repeated" else 1))
        if kind == "repeated":
            assert other.get(5) == Stop(number=1)
        with pytest.raises(Lost):
            other.get(5)


def test_an_end_and_silence_are_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pair() as (one, other):
        one.close()
        for _ in range(2):
            with pytest.raises(Lost, match="command has ended"):
                other.get(5)
    monkeypatch.setattr(channels, "LOST_SECONDS", 0.3)
    with pair() as (one, other), pytest.raises(Lost, match="no sign of life"):
        other.get(5)


def test_signs_of_life_are_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "BEAT_SECONDS", 0.01)
    with pair() as (_, other):
        assert other.get(0.3) is None


def test_no_greeting_of_ours_is_refused() -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 4) + b"nope"):
        ours, theirs = socket.socketpair()
        with ours, theirs, ThreadPoolExecutor() as pool:
            done = pool.submit(greet, ours, TOKEN, is_head=True)
            theirs.sendall(data)
            with pytest.raises(Lost, match="no greeting of this suite"):
                done.result()


class Meeting:
    """Node 0 in a thread; the other nodes join by calls."""

    def __init__(self, count: int, wait_seconds: float) -> None:
        port = free_port("127.0.0.1")
        self.place = Place(count=count, rank=0, host="127.0.0.1", port=port)
        self.wait_seconds = wait_seconds
        self.said: list[str] = []
        self.pool = ThreadPoolExecutor()
        self.head: Future[list[Node]] = self.pool.submit(
            head.gather, self.place, TOKEN, FACTS, wait_seconds, self.said.append
        )

    def join(self, rank: int = 1, token: str = TOKEN, **changes: Any) -> Future[Channel]:
        values = {"rank": rank, "nodes": self.place.count, "facts": FACTS, "environment": {}}
        hello = Hello(**{**values, **changes})
        return self.pool.submit(follower.join, self.place, token, hello, self.wait_seconds)


@pytest.fixture
def meeting() -> Iterator[Callable[..., Meeting]]:
    meetings: list[Meeting] = []

    def start(count: int = 2, wait_seconds: float = 20) -> Meeting:
        meetings.append(Meeting(count, wait_seconds))
        return meetings[-1]

    yield start
    for started in meetings:
        started.pool.shutdown()


def test_nodes_come_in_any_order(meeting: Callable[..., Meeting]) -> None:
    three = meeting(count=3)
    joined = [three.join(2), three.join(1)]
    nodes = three.head.result()
    assert [node.rank for node in nodes] == [1, 2]
    assert str(nodes[0]) == "node 1 (gpu01, 127.0.0.1)"
    for each in joined:
        each.result().close()
    for node in nodes:
        node.channel.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"facts": msgspec.structs.replace(FACTS, python="3.12.0")}, "it has Python 3.12.0"),
        ({"nodes": 3}, "was started for 3 nodes, node 0 for 2"),
        ({"problem": "needs 8 GPUs"}, "node 1 (gpu01, 127.0.0.1): needs 8 GPUs"),
    ],
)
def test_nodes_that_differ_start_nothing(
    meeting: Callable[..., Meeting], changes: dict[str, Any], words: str
) -> None:
    two = meeting()
    joined = two.join(**changes)
    assert words in str(two.head.exception())
    assert f"nothing starts: {two.head.exception()}" == str(joined.exception())


def test_a_stranger_is_refused_and_the_node_is_taken(meeting: Callable[..., Meeting]) -> None:
    two = meeting()
    stranger = two.join(token="a wrong token of that length")
    assert "has another token: give SPPO_BENCH_TOKEN" in str(stranger.exception())
    joined = two.join()
    (node,) = two.head.result()
    assert any("was refused: " in line for line in two.said)
    joined.result().close()
    node.channel.close()


def test_a_second_node_of_a_rank_is_refused(meeting: Callable[..., Meeting]) -> None:
    three = meeting(count=3)
    first = three.join(1)
    while not any("is there" in line for line in three.said):
        pass
    assert "another command has its rank" in str(three.join(1).exception())
    last = three.join(2)
    for node in three.head.result():
        node.channel.close()
    first.result().close()
    last.result().close()


def test_a_node_that_never_comes_is_named(meeting: Callable[..., Meeting]) -> None:
    three = meeting(count=3, wait_seconds=1)
    joined = three.join(2)
    words = f"node 1 did not come to 127.0.0.1:{three.place.port} within 1 s"
    assert words in str(three.head.exception())
    assert words in str(joined.exception())
    assert any("waits for node 1" in line for line in three.said)


def test_node_0_that_never_comes_is_named() -> None:
    where = Place(count=2, rank=1, host="127.0.0.1", port=free_port("127.0.0.1"))
    hello = Hello(rank=1, nodes=2, facts=FACTS, environment={})
    with pytest.raises(ValueError, match="does not answer"):
        follower.join(where, TOKEN, hello, 0.1)

"""The connection of two nodes, and how node 0 gathers the others, over loopback."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from benchmarks.nodes import channel as channels
from benchmarks.nodes import follower, head
from benchmarks.nodes.addresses import free_port
from benchmarks.nodes.channel import Channel, Lost, WrongToken, greet
from benchmarks.nodes.head import Node
from benchmarks.nodes.messages import Beat, Close, Hello, Message, Stop
from benchmarks.nodes.place import Place
from tests.unit.test_nodes import FACTS

TOKEN = "a token of sixteen or more"
PATIENCE_SECONDS = 60.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail where it does not come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Recorded(socket.socket):
    """A socket that keeps all that is sent through it."""

    def __init__(self, original: socket.socket) -> None:
        super().__init__(fileno=original.detach())
        self.sent = b""

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.sent += bytes(data)
        super().sendall(data, flags)


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


def test_the_token_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = tuple(map(Recorded, socket.socketpair()))
    monkeypatch.setattr(socket, "socketpair", lambda: ends)
    with pair() as (one, other):
        one.send(Stop(number=1))
        assert other.get(PATIENCE_SECONDS) == Stop(number=1)
        key = one.key
    for end in ends:
        assert b'"proof":"' in end.sent
        for secret in (TOKEN.encode(), TOKEN.encode().hex().encode(), key, key.hex().encode()):
            assert secret not in end.sent


@pytest.mark.parametrize("is_head", [True, False])
def test_a_false_proof_is_refused(is_head: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        done = pool.submit(greet, ours, TOKEN, is_head=is_head)
        if is_head:
            theirs.sendall(greeting(b'{"nonce":"00"}'))
            theirs.recv(4096)
        theirs.sendall(greeting(b'{"nonce":"00","proof":"%s"}' % (b"0" * 64)))
        with pytest.raises(WrongToken):
            done.result()


def greeting(data: bytes) -> bytes:
    """A frame of the greeting."""
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize("kind", ["changed", "repeated", "too long", "another type", "no text"])
def test_a_frame_that_is_not_right_loses_the_connection(kind: str) -> None:
    with pair() as (one, other):
        data = msgspec.json.encode(Stop(number=1))
        code = one._code(b"head", 0, data)
        if kind == "changed":
            data = msgspec.json.encode(Stop(number=2))
        foreign = {"another type": b'{"message":"pickle"}', "no text": b'{"message":"\xff"}'}
        if kind in foreign:
            data = foreign[kind]
            code = one._code(b"head", 0, data)
        length = channels.LONGEST_FRAME + 1 if kind == "too long" else len(data)
        frame = struct.pack(">I", length) + code + data
        one.connection.sendall(frame * (2 if kind == "repeated" else 1))
        if kind == "repeated":
            assert other.get(5) == Stop(number=1)
        with pytest.raises(Lost):
            other.get(PATIENCE_SECONDS)


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
    received: list[Message] = []
    original = Channel._receive

    def noting(channel: Channel, number: int) -> Message:
        received.append(original(channel, number))
        return received[-1]

    monkeypatch.setattr(channels, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(Channel, "_receive", noting)
    with pair() as (_, other):
        until(lambda: len(received) > 3)
        assert other.get(0) is None
    assert all(message == Beat() for message in received)


NO_GREETINGS = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "no JSON": greeting(b"nope"),
    "no UTF-8": greeting(b'{"nonce":"\xff"}'),
    "no nonce": greeting(b'{"nonce":"a\\u0000b"}'),
}


@pytest.mark.parametrize("data", NO_GREETINGS.values(), ids=NO_GREETINGS)
def test_no_greeting_of_ours_is_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        done = pool.submit(greet, ours, TOKEN, is_head=True)
        theirs.sendall(data)
        with pytest.raises(Lost, match="no greeting of this suite"):
            done.result()


@pytest.mark.parametrize("sends", [True, False], ids=["a byte now and then", "nothing"])
def test_a_greeting_has_a_deadline(sends: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor() as pool:
        done = pool.submit(greet, ours, TOKEN, is_head=True, seconds=0.3)
        deadline = time.monotonic() + PATIENCE_SECONDS
        theirs.sendall(struct.pack(">I", 4096))
        while not done.done() and time.monotonic() < deadline:
            if sends:
                theirs.sendall(b" ")
            time.sleep(0.02)
        assert isinstance(done.exception(0), TimeoutError)


class Meeting:
    """Node 0 in a thread; the other nodes join by calls."""

    def __init__(self, count: int, job: str = "", wait_seconds: float = PATIENCE_SECONDS) -> None:
        port = free_port("127.0.0.1")
        self.place = Place(count=count, rank=0, host="127.0.0.1", port=port, job=job)
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

    def start(count: int = 2, job: str = "") -> Meeting:
        meetings.append(Meeting(count, job))
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
        ({"nodes": 3, "rank": 2}, "node 2 (gpu01, 127.0.0.1) was started for 3 nodes"),
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
    until(lambda: any("is there" in line for line in three.said))
    assert "another command has its rank" in str(three.join(1).exception())
    last = three.join(2)
    for node in three.head.result():
        node.channel.close()
    first.result().close()
    last.result().close()


def test_a_node_that_ends_meanwhile_may_return(meeting: Callable[..., Meeting]) -> None:
    three = meeting(count=3)
    until(lambda: any("waits for node 1, 2 at" in line for line in three.said))
    with socket.create_connection((three.place.host, three.place.port)) as connection:
        waiting = greet(connection, TOKEN, is_head=False)
        waiting.send(Hello(rank=1, nodes=3, facts=FACTS, environment={}))
        until(lambda: any("is there" in line for line in three.said))
        waiting.close()
    joined = [three.join(1), three.join(2)]
    nodes = three.head.result(PATIENCE_SECONDS)
    assert [node.rank for node in nodes] == [1, 2]
    assert any("has ended while others were awaited" in line for line in three.said)
    for each in joined:
        each.result().close()
    for node in nodes:
        node.channel.close()


@pytest.mark.parametrize(
    "data",
    [b"", *NO_GREETINGS.values(), struct.pack(">I", 9)],
    ids=["gone", *NO_GREETINGS, "silent"],
)
def test_a_stranger_s_bytes_do_not_end_the_wait(
    data: bytes, meeting: Callable[..., Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    if data[3:] == b"\x09":
        monkeypatch.setattr(head, "GREETING_SECONDS", 0.3)
    two = meeting()
    until(lambda: any("waits for node 1" in line for line in two.said))
    where = (two.place.host, two.place.port)
    with socket.create_connection(where) as stranger:
        stranger.sendall(data)
        if not data:
            stranger.shutdown(socket.SHUT_RDWR)
        until(lambda: any("was refused: " in line for line in two.said))
    monkeypatch.undo()
    joined = two.join()
    (node,) = two.head.result()
    assert node.rank == 1
    joined.result().close()
    node.channel.close()


def test_a_node_that_says_no_more_is_refused(meeting: Callable[..., Meeting]) -> None:
    two = meeting()
    until(lambda: any("waits for node 1" in line for line in two.said))
    with socket.create_connection((two.place.host, two.place.port)) as connection:
        greet(connection, TOKEN, is_head=False).send(Stop(number=1))
        until(lambda: any("did not name its node" in line for line in two.said))
    joined = two.join()
    (node,) = two.head.result()
    assert node.rank == 1
    joined.result().close()
    node.channel.close()


@pytest.mark.parametrize(
    ("job", "way_out"), [("", ""), ("70.3.0", "; for one node give --nodes 1")], ids=["", "srun"]
)
def test_a_node_that_never_comes_is_named(
    job: str, way_out: str, meeting: Callable[..., Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(later=0.0)
    clock.monotonic = lambda: time.monotonic() + clock.later
    monkeypatch.setattr(head, "time", clock)
    three = meeting(count=3, job=job)
    joined = three.join(2)
    until(lambda: any("node 2 (gpu01, 127.0.0.1) is there" in line for line in three.said))
    clock.later = PATIENCE_SECONDS
    words = f"node 1 did not come to 127.0.0.1:{three.place.port} within 60 s"
    assert words in str(three.head.exception())
    assert words in str(joined.exception())
    assert str(three.head.exception()).endswith(f"a longer --node-wait{way_out}")
    assert any("waits for node 1, 2 at" in line for line in three.said)
    assert all(line.endswith(f" s{way_out}") for line in three.said if "waits for" in line)


def test_node_0_that_never_comes_is_named() -> None:
    where = Place(count=2, rank=1, host="127.0.0.1", port=free_port("127.0.0.1"))
    hello = Hello(rank=1, nodes=2, facts=FACTS, environment={})
    with pytest.raises(ValueError, match="does not answer"):
        follower.join(where, TOKEN, hello, 0.1)

"""A connection of two nodes: typed messages in JSON, each with a code that only the token gives.

A frame is its length (4 bytes), an HMAC-SHA-256 (32 bytes) and JSON. The code covers the direction
and the number of the frame, so none can be repeated or left out. Nothing is encrypted: the messages
hold no secrets. Nothing is unpickled.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Annotated

import msgspec

from benchmarks.nodes.messages import Beat, Message

BEAT_SECONDS = 5.0
"""How often a node gives a sign of life."""

LOST_SECONDS = 30.0
"""A node is lost after so long without one."""

GREETING_SECONDS = 5.0
"""How long a connection may take to show that it knows the token, and to name its node."""

LONGEST_FRAME = 64 * 2**20
"""Bytes of a message at most."""

LONGEST_GREETING = 4096
"""Bytes of a message at most before the other side has shown that it knows the token."""

_CODE_BYTES = 32
_LENGTH = struct.Struct(">I")


class Lost(ConnectionError):
    """The other side is gone. The message says how."""


class WrongToken(Exception):
    """The other side does not know the token."""


_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{0,64}$")]


class _Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nonce: _Hex = ""
    proof: _Hex = ""


def greet(
    connection: socket.socket, token: str, *, is_head: bool, seconds: float = GREETING_SECONDS
) -> Channel:
    """Show each other that both know the token, without sending it; the channel.

    seconds: for the whole greeting. Raises WrongToken, or OSError.
    """
    deadline = time.monotonic() + seconds
    connection.settimeout(seconds)
    own = secrets.token_hex(16)
    if is_head:
        other = _read_greeting(connection, deadline).nonce
        nonces = (other, own)
        _write_greeting(connection, nonce=own, proof=_proof(token, "head", nonces))
        answer = _read_greeting(connection, deadline)
        _check(answer.proof, _proof(token, "node", nonces))
    else:
        _write_greeting(connection, nonce=own)
        answer = _read_greeting(connection, deadline)
        nonces = (own, answer.nonce)
        _check(answer.proof, _proof(token, "head", nonces))
        _write_greeting(connection, proof=_proof(token, "node", nonces))
    key = bytes.fromhex(_proof(token, "key", nonces))
    names = (b"head", b"node") if is_head else (b"node", b"head")
    return Channel(connection=connection, key=key, sender=names[0], receiver=names[1])


def _proof(token: str, role: str, nonces: tuple[str, str]) -> str:
    text = "\0".join((role, *nonces))
    return hmac.digest(token.encode(), text.encode(), "sha256").hex()


def _check(proof: str, expected: str) -> None:
    if not hmac.compare_digest(proof.encode(), expected.encode()):
        raise WrongToken


def _write_greeting(connection: socket.socket, **values: str) -> None:
    data = msgspec.json.encode(_Greeting(**values))
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _read_greeting(connection: socket.socket, deadline: float) -> _Greeting:
    """Raises OSError, also for anything that is no greeting."""
    length = _LENGTH.unpack(_read(connection, _LENGTH.size, deadline))[0]
    if length > LONGEST_GREETING:
        raise Lost("sends no greeting of this suite")
    try:
        return msgspec.json.decode(_read(connection, length, deadline), type=_Greeting)
    except ValueError:  # of msgspec, or text that is no UTF-8
        raise Lost("sends no greeting of this suite") from None


def _read(connection: socket.socket, count: int, deadline: float | None = None) -> bytes:
    """So many bytes, before the deadline. Raises Lost, or OSError."""
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("its greeting takes too long")
            connection.settimeout(left)
        part = connection.recv(min(count - len(data), 2**20))
        if not part:
            raise Lost("its command has ended")
        data += part
    return bytes(data)


@dataclass(kw_only=True)
class Channel:
    """A connection after the greeting. A thread reads, another one gives signs of life."""

    connection: socket.socket
    key: bytes
    sender: bytes
    receiver: bytes
    _sent: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _messages: SimpleQueue[Message | Lost] = field(default_factory=SimpleQueue, init=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False)
    _receiver: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.connection.settimeout(LOST_SECONDS)
        self._receiver = threading.Thread(target=self._receive_all, daemon=True)
        self._receiver.start()
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def local_address(self) -> str:
        """The address of this side."""
        return str(self.connection.getsockname()[0])

    def send(self, message: Message) -> None:
        """Send a message. Raises Lost."""
        data = msgspec.json.encode(message)
        assert len(data) <= LONGEST_FRAME, "files are cut before"
        try:
            with self._lock:
                code = self._code(self.sender, self._sent, data)
                self._sent += 1
                self.connection.sendall(_LENGTH.pack(len(data)) + code + data)
        except OSError as error:
            raise Lost(f"its connection has ended ({error.strerror or error})") from None

    def get(self, seconds: float | None = None) -> Message | None:
        """The next message; None after so many seconds without one. Raises Lost, every time."""
        try:
            message = self._messages.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(message, Lost):
            self._messages.put(message)
            raise message
        return message

    def close(self) -> None:
        """Close the connection; what was sent still arrives."""
        self._closed.set()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()

    def _code(self, direction: bytes, number: int, data: bytes) -> bytes:
        return hmac.digest(self.key, direction + number.to_bytes(8, "big") + data, "sha256")

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            try:
                self.send(Beat())
            except Lost:
                return

    def _receive_all(self) -> None:
        number = 0
        while True:
            try:
                message = self._receive(number)
            except Lost as lost:
                self._messages.put(lost)
                return
            except TimeoutError:
                self._messages.put(Lost(f"no sign of life for {LOST_SECONDS:.0f} s"))
                return
            except OSError as error:
                self._messages.put(Lost(f"its connection has ended ({error})"))
                return
            number += 1
            if not isinstance(message, Beat):
                self._messages.put(message)

    def _receive(self, number: int) -> Message:
        head = _read(self.connection, _LENGTH.size + _CODE_BYTES)
        length = _LENGTH.unpack(head[: _LENGTH.size])[0]
        if length > LONGEST_FRAME:
            raise Lost("it sends what is no message of this suite")
        data = _read(self.connection, length)
        code = self._code(self.receiver, number, data)
        if not hmac.compare_digest(code, head[_LENGTH.size :]):
            raise Lost("it sends what is no message of this suite")
        try:
            message: Message = msgspec.json.decode(data, type=Message)
        except (ValueError, RecursionError):
            raise Lost("it sends what is no message of this suite") from None
        return message

"""Node 1 and up: come to node 0, do what it asks, and end with its exit code."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.job import Job
from benchmarks.launch import preparing, resuming
from benchmarks.launch.ranks import processes
from benchmarks.launch.ranks.team import Nodes
from benchmarks.nodes import files
from benchmarks.nodes.addresses import network_variables, resolved
from benchmarks.nodes.channel import Channel, Lost, WrongToken, greet
from benchmarks.nodes.messages import (
    AskNotes,
    Close,
    Ended,
    Hello,
    Launch,
    Leave,
    Message,
    NotesSent,
    Prepare,
    Prepared,
    Refused,
    Stop,
    Welcome,
)
from benchmarks.nodes.place import Place
from benchmarks.nodes.token import VARIABLE
from benchmarks.records.machine_errors import machine_words
from benchmarks.worker.heartbeat import mark_stopped

RETRY_SECONDS = 0.5
LAST_SECONDS = 5.0
"""How long a node looks for the last messages of a connection that has ended."""

CONNECT_SECONDS = 5.0
SPARE_SECONDS = 120.0
"""Beyond the time limit of node 0, which ends a launch that takes too long."""


class Gone(Exception):
    """Node 0 is gone. The message says how."""


class _Stopped(Exception):
    """Node 0 stops this launch."""


def join(place: Place, token: str, hello: Hello, wait_seconds: float) -> Channel:
    """The channel to node 0, which has taken this node. Raises ValueError with the cure."""
    address = resolved(place.host)
    with ExitStack() as undo:
        connection = undo.enter_context(_connect(address, place, wait_seconds))
        channel = _welcomed(connection, place, token, hello, CONNECT_SECONDS + wait_seconds)
        undo.pop_all()
    return channel


def _welcomed(
    connection: socket.socket, place: Place, token: str, hello: Hello, seconds: float
) -> Channel:
    """The channel after node 0's welcome. seconds: for the greeting. Raises ValueError."""
    try:
        channel = greet(connection, token, is_head=False, seconds=seconds)
        channel.send(hello)
        answer = channel.get()
    except WrongToken:
        raise ValueError(
            f"node 0 at {place.endpoint} has another token: give {VARIABLE} the same value on all "
            "nodes"
        ) from None
    except OSError as error:
        raise ValueError(
            f"node 0 at {place.endpoint} ended before the run began ({error}): look at its output"
        ) from None
    if not isinstance(answer, Welcome):
        reason = answer.reason if isinstance(answer, Refused) else "no welcome"
        raise ValueError(f"nothing starts: {reason}")
    return channel


def _connect(address: str, place: Place, wait_seconds: float) -> socket.socket:
    """A connection to node 0, tried until it listens. Raises ValueError."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection = socket.create_connection((address, place.port), CONNECT_SECONDS)
        except OSError as error:
            why = error.strerror or str(error)
        else:
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()  # on loopback a socket may meet itself
            why = "nobody listens"
        if time.monotonic() >= deadline:
            raise ValueError(
                f"node 0 does not answer at {place.endpoint} after {wait_seconds:.0f} s ({why}): "
                "start node 0, or look at the address and at firewalls between the nodes"
            )
        time.sleep(RETRY_SECONDS)


@dataclass(kw_only=True)
class Follower:
    """A node after its welcome. directory: its own folder, with the inputs of the launches.

    say: prints a line. written: of weights and tokens, what they were made from and their SHA-256.
    """

    place: Place
    channel: Channel
    directory: Path
    say: Callable[[str], None]
    later: list[Message] = field(default_factory=list)
    written: dict[str, tuple[Any, str]] = field(default_factory=dict)

    def follow(self) -> int:
        """Do what node 0 asks until it closes; its exit code. Raises Gone."""
        with ExitStack() as stopped:
            stopped.callback(self._leave)
            try:
                code = self._answer()
            except Lost as lost:
                last = self._last_code()
                if last is None:
                    raise Gone(f"node 0 at {self.place.endpoint} is gone: {lost}") from None
                code = last
            stopped.pop_all()
            return code

    def _answer(self) -> int:
        """Do what node 0 asks; the exit code with which it closes. Raises Lost."""
        while True:
            message = self.later.pop(0) if self.later else self.channel.get()
            if isinstance(message, Close):
                return message.code
            if isinstance(message, Prepare):
                self.channel.send(self._prepared(message))
            elif isinstance(message, Launch):
                self._launch(message)

    def _leave(self) -> None:
        """Say that this command was stopped, by whatever."""
        with suppress(Lost):
            self.channel.send(Leave(reason="its command was stopped"))

    def _last_code(self) -> int | None:
        """The exit code that node 0 sent before its connection ended, while this node worked."""
        with suppress(Lost):
            while (message := self.channel.get(LAST_SECONDS)) is not None:
                self.later.append(message)
        codes = [message.code for message in self.later if isinstance(message, Close)]
        return codes[0] if codes else None

    def _prepared(self, message: Prepare) -> Prepared:
        """Write the inputs of the next launches. Points of a study share what they have alike."""
        workload, options = message.workload, message.options
        data = workload.text, workload.data_field, workload.tokenizer, workload.model
        tokens_of = (*data, *preparing.batch_shape(workload), options.steps)
        weights_of = workload.model, workload.seed, workload.dtype
        try:
            tokens_sha256 = self._written(
                "tokens.npy",
                tokens_of,
                lambda path: preparing.write_tokens(workload, options, path),
            )
            weights_sha256 = self._written(
                "weights.pt", weights_of, lambda path: preparing.write_weights(workload, path)
            )
        except (ValueError, OSError, MemoryError) as error:
            return Prepared(problem=_words(error))
        self.say(f"node {self.place.rank}: weights and tokens are written")
        return Prepared(weights_sha256=weights_sha256, tokens_sha256=tokens_sha256)

    def _written(self, name: str, source: Any, write: Callable[[Path], object]) -> str:
        """The SHA-256 of a file, which is written unless it was made from the same source."""
        known = self.written.pop(name, None)
        if known is None or known[0] != source:
            path = self.directory / name
            write(path)
            known = source, resuming.digest(path)
        self.written[name] = known
        return known[1]

    def _launch(self, message: Launch) -> None:
        """Run the ranks of this node, and send their files and their end. Raises Lost."""
        number = message.number
        directory = self.directory / f"launch-{number}"
        self.say(f"node {self.place.rank}: {message.job.row}, launch {message.job.launch}")
        problem = ""
        code: int | None = None
        try:
            directory.mkdir()
            code = self._run(message, directory)
            self._send_files(directory, number)
        except Lost:
            raise
        except OSError as error:
            problem = _words(error)
            with suppress(OSError):
                self._send_files(directory, number)
        self.channel.send(Ended(number=number, code=code, problem=problem))
        if not problem:
            shutil.rmtree(directory, ignore_errors=True)  # node 0 has all files

    def _send_files(self, directory: Path, number: int) -> None:
        for file in files.result_files(directory, number):
            self.channel.send(file)

    def _run(self, message: Launch, directory: Path) -> int | None:
        """The exit code of the ranks; None where node 0 stopped them. Raises OSError or Lost."""
        nodes = Nodes(
            count=self.place.count,
            rank=self.place.rank,
            endpoint=message.endpoint,
            variables=network_variables(self.channel.local_address),
        )
        job = self._own(message.job, directory)
        tree = processes.start_ranks(job, message.environment, nodes)
        deadline = time.monotonic() + message.limit_seconds + SPARE_SECONDS
        try:
            processes.watch(
                tree, directory / "log.txt", deadline, lambda: self._check(message, directory, tree)
            )
        except (_Stopped, processes.OutOfTime):
            return None
        finally:
            code = tree.process.poll()
            tree.stop()
        return code

    def _own(self, job: Job, directory: Path) -> Job:
        """The job with the files of this node."""
        return msgspec.structs.replace(
            job,
            weights_path=str(self.directory / "weights.pt"),
            tokens_path=str(self.directory / "tokens.npy"),
            output_directory=str(directory),
        )

    def _check(self, launch: Launch, directory: Path, tree: processes.ProcessTree) -> None:
        """Answer node 0 while the ranks run. Raises _Stopped or Lost."""
        message = self.channel.get(0)
        if isinstance(message, Stop) and message.number == launch.number:
            raise _Stopped
        if isinstance(message, Close):
            self.later.append(message)
            raise _Stopped
        if isinstance(message, AskNotes) and message.number == launch.number:
            mark_stopped(directory, tree.stopped_ranks())
            for file in files.note_files(directory, launch.number):
                self.channel.send(file)
            self.channel.send(NotesSent(number=launch.number))


def _words(error: Exception) -> str:
    return machine_words(error) if isinstance(error, (OSError, MemoryError)) else str(error)

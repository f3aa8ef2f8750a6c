"""Emulated ranks as forks of processes that have imported the library: for searches."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from queue import LifoQueue
from threading import Event

import msgspec

from baselines.protocol import Role
from benchmarks.emulation import processes
from benchmarks.emulation.emulator import RunRank
from benchmarks.emulation.forked.rank_server import RankRequest
from benchmarks.emulation.result import EmulationJob, RoleReport, failed
from benchmarks.environment import available_cores

Server = subprocess.Popen[bytes]

MOST_SERVERS = 16
"""Of each system of several: every server holds a library, about 300 MB."""


class PreloadedRanks(AbstractContextManager["PreloadedRanks"]):
    """As many servers as there are cores, or as are asked for. They end with the context.

    A server that has ended is replaced: a rank past its time limit ends its server. Servers start
    in the thread that enters the context, since the kernel ends them with the thread that started
    them (`benchmarks.worker.parent`).
    """

    def __init__(self, system: str, servers: int | None = None) -> None:
        self.system = system
        self.servers = servers or available_cores()
        self._free: LifoQueue[Server] = LifoQueue()

    def __enter__(self) -> PreloadedRanks:
        for _ in range(self.servers):
            self._free.put(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        while not self._free.empty():
            _end(self._free.get())

    def emulate_rank(
        self, role: Role, job: EmulationJob, time_limit_seconds: float, ended: Event
    ) -> RoleReport:
        """Run one rank as `processes.emulate_rank` does, on the next free server."""
        server = self._free.get()
        try:
            if server.poll() is not None:
                server = self._start()
            code = _ask(server, role, job, time.monotonic() + time_limit_seconds, ended)
        finally:
            self._free.put(server)
        if code is None:
            return failed(role, "timeout", f"stopped after {time_limit_seconds:g} s")
        return processes.report_of(role, job, code)

    def _start(self) -> Server:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.emulation.forked.rank_server", self.system],
            env=processes.system_environment(self.system),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def ranks_of_systems() -> Iterator[Callable[[str], RunRank]]:
    """Starts the servers of a system at its first call; they end with the context.

    Call in the thread of the context. Few ranks of a setting run at once: at most MOST_SERVERS.
    """
    with ExitStack() as stack:
        ranks: dict[str, PreloadedRanks] = {}

        def ranks_of(system: str) -> RunRank:
            if system not in ranks:
                servers = min(available_cores(), MOST_SERVERS)
                ranks[system] = stack.enter_context(PreloadedRanks(system, servers))
            return ranks[system].emulate_rank

        yield ranks_of


def _ask(
    server: Server, role: Role, job: EmulationJob, deadline: float, ended: Event
) -> int | None:
    """The exit code of the rank, or of its server; None where time was over."""
    log = processes.log_of(role, job)
    log.touch()
    request = RankRequest(
        arguments=processes.arguments_of(role, job),
        environment=processes.environment_of(role, job),
        log=str(log),
    )
    assert server.stdin is not None, "started with pipes"
    assert server.stdout is not None, "started with pipes"
    try:
        server.stdin.write(msgspec.json.encode(request) + b"\n")
        server.stdin.flush()
    except BrokenPipeError:
        return server.wait()
    while not select.select([server.stdout], [], [], processes.TICK_SECONDS)[0]:
        if ended.is_set() or time.monotonic() > deadline:
            _end(server)
            return None
    answer = server.stdout.readline()
    return int(answer) if answer else server.wait()


def _end(server: Server) -> None:
    """Kill the server; its rank ends with it."""
    server.kill()
    server.wait()
    for stream in (server.stdin, server.stdout):
        if stream is not None:
            stream.close()

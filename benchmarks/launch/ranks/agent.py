"""torchrun that notes the end of every rank at once: torchrun itself looks ten times a second.

    python -m benchmarks.launch.ranks.agent ARGUMENTS OF torchrun

The kernel reports ended ranks by their process descriptors (pidfd_open(2)). epoll(7) returns them
in the order in which they ended, however late this process wakes up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.agent.server.api import WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from torch.distributed.launcher import api

from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks.ends import FILE_VARIABLE, RankEnd, Stop
from benchmarks.worker.parent import end_with_parent, parent_variable


def main() -> None:
    """Run torchrun with the watch, and without the folder that torchrun leaves behind."""
    end_with_parent(signal.SIGTERM)
    os.environ |= parent_variable()
    ends_path = os.environ.get(FILE_VARIABLE)
    beside = Path(ends_path).parent if ends_path else None
    api.LocalElasticAgent = WatchedAgent  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix=".torchelastic_", dir=beside) as folder:
        run.main(["--log-dir", folder, *sys.argv[1:]])


class WatchedAgent(LocalElasticAgent):
    """torchrun's agent of one node, with a watch on its ranks."""

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        process_ids: dict[int, Any] = super()._start_workers(worker_group)
        path = os.environ.get(FILE_VARIABLE)
        if path and isinstance(self._pcontext, SubprocessContext):
            ranks = {worker.local_rank: worker.global_rank for worker in worker_group.workers}
            Watch(self._pcontext, ranks, Path(path))
        return process_ids


class Watch:
    """Notes each rank's end as soon as the kernel reports the end, and before torchrun's TERM."""

    def __init__(self, context: SubprocessContext, ranks: Mapping[int, int], path: Path) -> None:
        self._path = path
        self._ranks = ranks
        self._error_files = context.error_files
        self._lock = threading.Lock()
        self._running: dict[int, Popen[bytes]] = {
            local_rank: handler.proc for local_rank, handler in context.subprocess_handlers.items()
        }
        self._stopped = False
        self._note_stops(context)
        with suppress(AttributeError, OSError):  # no pidfd: the ends are noted at the stop
            self._epoll = select.epoll()
            self._local_ranks = {
                os.pidfd_open(process.pid): local_rank
                for local_rank, process in self._running.items()
            }
            for descriptor in self._local_ranks:
                self._epoll.register(descriptor, select.EPOLLIN)
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._running:
            self._take(self._epoll.poll())

    def _take(self, events: list[tuple[int, int]]) -> None:
        """Note the ends of these descriptors. A second report of an end is ignored."""
        now_ns = time.time_ns()
        with self._lock:
            for descriptor, _ in events:
                process = self._running.pop(self._local_ranks[descriptor], None)
                if process is not None:
                    self._epoll.unregister(descriptor)
                    self._note(self._local_ranks[descriptor], exit_code(process), now_ns)

    def _note(self, local_rank: int, code: int, now_ns: int) -> None:
        message = elastic_message(Path(self._error_files[local_rank])) if code else ""
        rank = self._ranks[local_rank]
        end = RankEnd(rank=rank, code=code, time_ns=now_ns, message=message)
        with suppress(OSError):  # a full disk
            rank_ends.append(self._path, end)

    def _note_stops(self, context: SubprocessContext) -> None:
        """Have `context` note, before it ends all ranks, which ranks have ended already."""
        close = context.close

        def noted(death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
            self._stop(death_sig)
            close(death_sig, timeout)
            self._finish()

        context.close = noted  # type: ignore[method-assign]

    def _stop(self, death_signal: signal.Signals | None) -> None:
        self._finish()
        if not self._stopped:
            self._stopped = True
            with suppress(OSError):
                number = int(death_signal or 0)
                rank_ends.append(self._path, Stop(time_ns=time.time_ns(), signal=number))

    def _finish(self) -> None:
        """Note all ends so far; without descriptors from the exit codes that torchrun knows."""
        if hasattr(self, "_local_ranks"):
            self._take(self._epoll.poll(0))
        with self._lock:
            for local_rank, process in list(self._running.items()):
                if process.returncode is not None:
                    del self._running[local_rank]
                    self._note(local_rank, process.returncode, time.time_ns())


def exit_code(process: Popen[bytes]) -> int:
    """The code of an ended process, which stays for its parent's own wait."""
    try:
        end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        end = None
    if end is None:
        return process.wait()
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def elastic_message(path: Path) -> str:
    """The message of an error file of torch.distributed.elastic; "" without a readable one."""
    try:
        message = json.loads(path.read_bytes())["message"]
        return str(message if isinstance(message, str) else message["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    main()

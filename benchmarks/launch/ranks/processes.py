"""One launch: torchrun in a session of its own, watched, and stopped with all its ranks."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import psutil

from benchmarks.environment import child_environment, import_path
from benchmarks.job import PROGRESS_PREFIX, Job, Progress
from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks.binding import numa_binding
from benchmarks.launch.ranks.outcome import Outcome, judge, out_of_time
from benchmarks.launch.ranks.team import ALONE, ONE_NODE, NodeFailed, Nodes, Team
from benchmarks.records import store
from benchmarks.worker.heartbeat import mark_stopped
from benchmarks.worker.parent import parent_variable

GRACE_SECONDS = 5.0
"""From TERM to KILL."""

GONE_SECONDS = 2.0
"""From KILL until no process holds memory or ports of the launch."""

TICK_SECONDS = 0.5
"""How often a launch without output is checked."""

LONE_NODE = ("--nnodes", "1", "--local-addr", "127.0.0.1")
"""One node, whatever PET_NNODES says, on loopback: a machine's own name need not resolve."""


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How one job is launched.

    environment: variables besides those of `variables`. on_progress: called after each step.
    team: the other nodes. clock: of the time limit, in seconds. check: called while the ranks run;
    may raise.
    """

    environment: Mapping[str, str]
    time_limit_seconds: float
    on_progress: Callable[[Progress], None]
    team: Team = ALONE
    clock: Callable[[], float] = time.monotonic
    check: Callable[[], None] = lambda: None


class OutOfTime(Exception):
    """The launch passed its own time limit."""


def command(job_path: Path, ranks: int, nodes: Nodes = ONE_NODE, device: str = "cpu") -> list[str]:
    """The exact torchrun command of a launch with `ranks` ranks over all nodes."""
    worker = "benchmarks.worker.rank"
    return torchrun(ranks, worker, str(job_path), nodes=nodes, device=device)


def torchrun(
    ranks: int, module: str, *arguments: str, nodes: Nodes = ONE_NODE, device: str = "cpu"
) -> list[str]:
    """The command that runs a module on `ranks` ranks over all nodes.

    The agent is torchrun that also notes the end of every rank. On several nodes the meeting is
    static: the ranks of node R follow those of node R - 1, and node 0 has rank 0.
    """
    meeting = ["--standalone", *LONE_NODE]
    if nodes.count > 1:
        host, _, port = nodes.endpoint.rpartition(":")
        meeting = ["--nnodes", str(nodes.count), "--node-rank", str(nodes.rank)]
        meeting += ["--master-addr", host, "--master-port", port]
    meeting += ["--nproc-per-node", str(ranks // nodes.count)]
    binding = numa_binding(device)
    if binding is not None:
        meeting += ["--numa-binding", binding]
    return [
        sys.executable,
        "-m",
        "benchmarks.launch.ranks.agent",
        *meeting,
        "-m",
        module,
        *arguments,
    ]


def variables(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a launch adds to the environment of this process.

    On CUDA, expandable segments lose the least memory to fragments. Every system gets them, unless
    the user sets an allocator.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        **_allocator(),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        **import_path(),
        **environment,
    }


def _allocator() -> dict[str, str]:
    """CUDA's allocator, unless the user has set it by either name."""
    if "PYTORCH_ALLOC_CONF" in os.environ or "PYTORCH_CUDA_ALLOC_CONF" in os.environ:
        return {}
    return {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def shell_line(arguments: list[str], environment: Mapping[str, str]) -> str:
    """The command as a line for a shell, its variables in front."""
    assignments = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*assignments, shlex.join(arguments)])


def launch(job: Job, options: LaunchOptions) -> Outcome:
    """Write job.json, run the ranks to their end or the time limit, and judge the outcome.

    No process of the launch is left behind, also after an interrupt. Raises OSError, such as
    NodeLost: a launch without one of its nodes has no outcome.
    """
    directory = Path(job.output_directory)
    team = options.team
    nodes = team.begin(job, options.environment, options.time_limit_seconds)
    tree = start_ranks(job, options.environment, nodes)
    tree.on_progress = options.on_progress
    deadline = options.clock() + options.time_limit_seconds
    late: Outcome | None = None

    def check() -> None:
        team.check()
        options.check()

    try:
        watch(tree, directory / "log.txt", deadline, check, options.clock)
    except NodeFailed:
        pass  # the files of that node say why
    except OutOfTime:
        mark_stopped(directory, tree.stopped_ranks())
        team.read_notes()
        late = out_of_time(directory, job.ranks, options.time_limit_seconds, tree.steps_done)
    finally:
        code = tree.process.poll()
        tree.stop()
        reason = team.finish(code)
    team.require_all()
    if late is not None:
        return late
    outcome = judge(directory, job.ranks, 1 if code is None else code)
    return replace(outcome, status="failed", reason=reason) if reason else outcome


def start_ranks(job: Job, environment: Mapping[str, str], nodes: Nodes) -> ProcessTree:
    """Write job.json, and start the ranks of this node. Raises OSError."""
    directory = Path(job.output_directory)
    job_path = store.save(directory / "job.json", job)
    ends_path = directory.absolute() / rank_ends.FILE_NAME
    ends_path.unlink(missing_ok=True)
    added = {**variables(job.threads_per_rank, environment), **nodes.variables}
    added[rank_ends.FILE_VARIABLE] = str(ends_path)
    return start(command(job_path, job.ranks, nodes, job.workload.cluster.device), added)


def start(arguments: Sequence[str], variables: Mapping[str, str]) -> ProcessTree:
    """Start a command in a session of its own. Standard error goes into standard output."""
    return ProcessTree(
        subprocess.Popen(
            arguments,
            env={**child_environment(variables), **parent_variable()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    )


class ProcessTree:
    """torchrun and its ranks. The group is not enough: ranks have sessions of their own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.members: set[psutil.Process] = set()
        self.steps_done = 0
        self.on_progress: Callable[[Progress], None] = lambda progress: None

    def note(self) -> None:
        """Remember the current descendants: an orphan cannot be found later."""
        with suppress(psutil.Error):
            self.members |= set(psutil.Process(self.process.pid).children(recursive=True))

    def stopped_ranks(self) -> list[int]:
        """Ranks here that were stopped from outside, as by SIGSTOP, and do not run."""
        self.note()
        ranks = []
        for member in self.members:
            with suppress(psutil.Error):
                if member.status() == psutil.STATUS_STOPPED:
                    ranks.append(member.environ().get("RANK", ""))
        return sorted({int(rank) for rank in ranks if rank.isdecimal()})

    def read(self, line: bytes) -> None:
        """Report a line of progress. At the first one all ranks are there."""
        text = line.decode("utf-8", "replace")
        if not text.startswith(PROGRESS_PREFIX):
            return
        try:
            progress = msgspec.json.decode(text.removeprefix(PROGRESS_PREFIX), type=Progress)
        except msgspec.DecodeError:
            return
        if self.steps_done == 0:
            self.note()
        self.steps_done = progress.step + 1
        self.on_progress(progress)

    def stop(self) -> None:
        """TERM to the group (torchrun passes it on), then KILL to the remaining processes.

        Further interrupts are ignored meanwhile: a second Ctrl-C would leave ranks behind.
        """
        with undisturbed():
            self.note()
            if self.process.poll() is None:
                self._signal(signal.SIGTERM)
                try:
                    self.process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    self._signal(signal.SIGKILL)
            for member in self.members:
                with suppress(psutil.Error):
                    member.kill()
            self.process.wait()
            psutil.wait_procs(self.members, timeout=GONE_SECONDS)
            if self.process.stdout is not None:
                self.process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that end a command.

    Only the main thread receives signals, and only that thread can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(
    tree: ProcessTree,
    log_path: Path,
    deadline: float,
    check: Callable[[], None] = ALONE.check,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Copy the output into the log until the launch ends. Sleeps in between.

    deadline: by the clock. Raises OutOfTime, and all that `check` raises.
    """
    process = tree.process
    assert process.stdout is not None
    pending = b""
    with log_path.open("wb", buffering=0) as log, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            check()
            remaining = deadline - clock()
            if remaining <= 0:
                raise OutOfTime
            if selector.select(min(remaining, TICK_SECONDS)):
                data = os.read(process.stdout.fileno(), 65_536)
                if not data:
                    break
                log.write(data)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    tree.read(line)
            elif process.poll() is not None:
                return
    try:
        process.wait(max(deadline - clock(), 0.1))
    except subprocess.TimeoutExpired:
        raise OutOfTime from None

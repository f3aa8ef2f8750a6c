"""The order of deaths is the kernel's, however late torchrun looks; no rank outlives torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks import processes
from benchmarks.launch.ranks.ends import RankEnd, Stop
from benchmarks.worker.parent import PARENT

pytestmark = pytest.mark.slow

RANK = """
import os, signal, sys, time
from pathlib import Path

def ended(rank):
    path = Path(f"pid-{rank}")
    stat = Path(f"/proc/{path.read_text()}/stat") if path.exists() else None
    return stat is not None and stat.read_text().rpartition(")")[2].split()[0] == "Z"

def is_watching(parent):
    # torchrun waits for the pidfds of all three ranks; its store has an epoll of its own
    folder = Path(f"/proc/{parent}/fdinfo")
    try:
        infos = {path.name: path.read_text() for path in folder.iterdir()}
    except OSError:  # a file that was closed meanwhile
        return False
    ranks = {name for name, info in infos.items() if "Pid:" in info}
    waiting = [{line.split()[1] for line in info.splitlines() if line.startswith("tfd:")}
               for info in infos.values()]
    return len(ranks) == 3 and any(ranks <= names for names in waiting)

def wait(condition):
    while not condition():
        time.sleep(0.01)

rank = int(os.environ["RANK"])
name = Path(f".pid-{rank}")
name.write_text(str(os.getpid()))
name.rename(f"pid-{rank}")
if rank == 0:
    wait(lambda: is_watching(os.getppid()))
    os.kill(os.getppid(), signal.SIGSTOP)
    Path("stopped").touch()
    wait(lambda: ended(1) and ended(2))
    os.kill(os.getppid(), signal.SIGCONT)
    time.sleep(600)
elif rank == 1:
    wait(lambda: ended(2))
    os._exit(3)
else:
    wait(Path("stopped").exists)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the order is that of pidfds")
def test_deaths_are_noted_in_their_order_by_a_torchrun_that_slept(tmp_path: Path) -> None:
    """Rank 0 stops torchrun while first rank 2 and then rank 1 dies."""
    (tmp_path / "rank.py").write_text(RANK)
    ends_path = tmp_path / rank_ends.FILE_NAME
    line = [*processes.torchrun(3, "benchmarks.none")[:-2], str(tmp_path / "rank.py")]
    environment = {**os.environ, **processes.variables(1, {}), "TMPDIR": str(tmp_path)}
    environment.pop(PARENT, None)
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={**environment, rank_ends.FILE_VARIABLE: str(ends_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    events = rank_ends.read(tmp_path)
    assert [(event.rank, event.code) for event in events if isinstance(event, RankEnd)] == [
        (2, -signal.SIGKILL),
        (1, 3),
        (0, -signal.SIGTERM),
    ]
    assert [type(event) for event in events] == [RankEnd, RankEnd, Stop, RankEnd]
    assert not [path for path in tmp_path.iterdir() if "torchelastic" in path.name]


CHILD = """
import os, signal, sys, time
from benchmarks.worker.parent import end_with_parent
end_with_parent(signal.SIGKILL)
print(os.getpid(), flush=True)
time.sleep(600)
"""

PARENT_PROGRAM = """
import os, subprocess, sys
from benchmarks.worker.parent import parent_variable
variables = {**os.environ, **parent_variable()}
subprocess.run([sys.executable, "-c", sys.argv[1]], env=variables)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_child_ends_with_a_killed_parent() -> None:
    environment = {**os.environ, **processes.variables(1, {})}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_PROGRAM, CHILD], env=environment, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert is_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_child_whose_parent_had_ended_before_it_looked_ends_too() -> None:
    environment = {**os.environ, **processes.variables(1, {}), PARENT: "1"}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL


BY_HAND = """
import ctypes, signal
from benchmarks.worker.parent import end_with_parent
end_with_parent(signal.SIGTERM)
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
print(number.value)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_process_started_by_hand_outlives_its_shell() -> None:
    environment = {**os.environ, **processes.variables(1, {})}
    environment.pop(PARENT, None)
    done = subprocess.run(
        [sys.executable, "-c", BY_HAND], env=environment, stdout=subprocess.PIPE, check=True
    )
    assert int(done.stdout) == 0


def is_gone(process: psutil.Process, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False

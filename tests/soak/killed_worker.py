"""The real worker, but for one rank that ends itself at a planned moment.

torchrun ... killed_worker.py JOB.json

KILL is "RANK KIND PHASE SECONDS": with "1 SIGKILL accounted 0.05" rank 1 sends itself a KILL 0.05 s
after it has entered the accounted step. KIND "exit" is os._exit(3); "error" is a ValueError in the
worker's own code, at its next note.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.worker import rank as worker
from benchmarks.worker.heartbeat import Heartbeat

EXIT_CODE = 3
PLANTED = "a planted error"


def end(kind: str, folder: Path) -> None:
    """End this process, after a note of the true time. An "error" is raised elsewhere."""
    (folder / "killed").write_text(str(time.time_ns()))
    if kind == "exit":
        os._exit(EXIT_CODE)
    elif kind != "error":
        os.kill(os.getpid(), getattr(signal, kind))


def plant(kind: str, wanted: str, seconds: float, folder: Path) -> None:
    """End this process so many seconds after it has entered the phase for the first time."""
    enter, note = Heartbeat.enter, Heartbeat.note
    is_due = threading.Event()

    def act() -> None:
        end(kind, folder)
        is_due.set()

    def entered(heartbeat: Heartbeat, phase: str) -> None:
        nonlocal wanted
        enter(heartbeat, phase)
        if phase == wanted:
            wanted = ""
            timer = threading.Timer(seconds, act)
            timer.daemon = True
            timer.start()

    def noted(heartbeat: Heartbeat, doing: str) -> None:
        note(heartbeat, doing)
        if is_due.is_set():
            is_due.clear()
            raise ValueError(PLANTED)

    Heartbeat.enter, Heartbeat.note = entered, noted


if __name__ == "__main__":
    launch_folder = Path(sys.argv[1]).parent
    (launch_folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    who, how, phase_name, after = os.environ.get("KILL", "- - - 0").split()
    if who == os.environ["RANK"]:
        plant(how, phase_name, float(after), launch_folder)
    worker.main()

"""The real worker, but for a signal that one rank sends itself in the middle of an instruction.

torchrun ... interfered_worker.py JOB.json

INTERFERE is "RANK SIGNAL INSTRUCTION TIMES": rank 1 is killed when it computes F0.3@1 for the third
time with "1 SIGKILL F0.3@1 3".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchmarks.worker import rank as worker
from sppo.engine.engine import Engine
from sppo.schedule.instructions import Instruction


def interfere(rank: str, name: str, wanted: str, times: str) -> None:
    """Have a forward on this rank send the signal instead of computing, at its so-many-th turn."""
    forward, turns = Engine._forward, 0

    def interfered(engine: Engine, instruction: Instruction) -> None:
        nonlocal turns
        turns += str(instruction) == wanted
        if turns == int(times):
            os.kill(os.getpid(), getattr(signal, name))
        forward(engine, instruction)

    if rank == os.environ["RANK"]:
        Engine._forward = interfered


if __name__ == "__main__":
    folder = Path(sys.argv[1]).parent
    (folder / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    interfere(*os.environ["INTERFERE"].split())
    worker.main()

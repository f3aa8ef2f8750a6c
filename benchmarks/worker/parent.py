"""A process that ends with its parent: no rank outlives a launcher that was killed.

Linux only; elsewhere a killed launcher leaves its ranks to their time-outs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "SPPO_SUITE_PARENT"
"""The variable with the process id of the parent that started this process."""

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of <sys/prctl.h>, see prctl(2)."""


def parent_variable() -> dict[str, str]:
    """The variable that a child of this process gets."""
    return {PARENT: str(os.getpid())}


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process the signal when its parent ends.

    A parent that has ended before is noticed by its process id. A process that a user has started,
    by a line of --dry-run under nohup, outlives the user's shell.
    """
    parent = os.environ.get(PARENT)
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if int(parent) != os.getppid():
        os.kill(os.getpid(), number)

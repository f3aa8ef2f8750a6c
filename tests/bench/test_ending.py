"""What ends a command ends it like Ctrl-C: once, with its clean-up, without its terminal too."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import ENDING_SIGNALS, INTERRUPTED
from benchmarks.launch.ranks.processes import variables

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from benchmarks import cli

class Command:
    def run(self):
        try:
            os.write(int(sys.argv[1]), b"ready")
            time.sleep(600)
        finally:
            print("cleaning", flush=True)
            for number in cli.ENDING_SIGNALS:
                os.kill(os.getpid(), number)
            time.sleep(0.01)
            print("cleaned", file=sys.stderr, flush=True)
            Path("cleaned").touch()

signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):  # a job in the background ignores all three
    signal.signal(number, signal.SIG_DFL)
if sys.argv[2:]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
cli.parse = lambda arguments: Command()
sys.exit(cli.main(["run"]))
"""


def start(folder: Path, *arguments: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    """A command that has begun its work, with its output in a terminal if one is given."""
    ready, told = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(told), *arguments],
        cwd=folder,
        env={**os.environ, **variables(1, {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if terminal is None else terminal,
        stderr=subprocess.DEVNULL if terminal is None else terminal,
        pass_fds=[told],
        start_new_session=True,
    )
    os.close(told)
    assert os.read(ready, 5) == b"ready"
    os.close(ready)
    return process


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_ends_a_command_once_and_with_its_clean_up(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The same signals come again during the clean-up."""
    process = start(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == INTERRUPTED
    assert (tmp_path / "cleaned").exists()


def test_a_closed_terminal_does_not_end_the_clean_up(tmp_path: Path) -> None:
    """Every write to it fails."""
    master, terminal = pty.openpty()
    process = start(tmp_path, terminal=terminal)
    os.close(terminal)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == INTERRUPTED
    assert (tmp_path / "cleaned").exists()


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    process = start(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.wait(60) == INTERRUPTED

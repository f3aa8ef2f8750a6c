"""Processes of `sppo-bench check` end with the command, and their failures are results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest

from benchmarks.regression.check import counted, expected, gate, topics
from benchmarks.regression.check.differences import Values
from benchmarks.regression.check.workers import Collect, Processes, Workers

LONG_SECONDS = 60.0
SLEEPER = [sys.executable, "-c", f"import time; time.sleep({LONG_SECONDS})"]


def sleep(seconds: float) -> Values:
    time.sleep(seconds)
    return {"slept": seconds}


def touch_and_sleep(path: str) -> Values:
    Path(path).touch()
    return sleep(LONG_SECONDS)


def kill_itself(task: str) -> Values:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def ended(pid: int) -> bool:
    """Whether the process ends, within a minute."""
    try:
        psutil.Process(pid).wait(LONG_SECONDS / 2)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_closing_kills_a_planning_process_in_its_task(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    workers = Workers()
    collect = workers.plan(touch_and_sleep, {"case": str(begun)})
    while not begun.exists():
        time.sleep(0.01)
    workers.close()
    with pytest.raises(BrokenProcessPool):
        collect()


def test_closing_lets_finished_planning_be() -> None:
    workers = Workers()
    collect = workers.plan(sleep, {"case": 0.0})
    assert collect() == {"case": {"slept": 0.0}}
    workers.close()


def test_ending_kills_what_threads_wait_for() -> None:
    processes = Processes()
    errors: list[RuntimeError] = []

    def wait() -> None:
        try:
            processes.run(SLEEPER, os.environ, LONG_SECONDS)
        except RuntimeError as error:
            errors.append(error)

    thread = Thread(target=wait)
    thread.start()
    while not processes._running:
        time.sleep(0.01)
    processes.end()
    thread.join()
    assert [str(error) for error in errors] == ["ended with -9"]
    with pytest.raises(RuntimeError, match="the check has ended"):
        processes.run(SLEEPER, os.environ, LONG_SECONDS)


def test_a_process_has_a_time_limit() -> None:
    with pytest.raises(RuntimeError, match=r"stopped after 0\.1 s"):
        Processes().run(SLEEPER, os.environ, 0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death signal is of Linux")
@pytest.mark.soak
def test_a_killed_check_leaves_no_process_behind() -> None:
    """The child's pool has begun its task when it writes its process id."""
    program = (
        "from benchmarks.regression.check.workers import Workers\n"
        "from tests.unit.test_check_workers import tell_and_sleep\n"
        "Workers().plan(tell_and_sleep, {'case': 'x'})()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as check:
        assert check.stdout is not None
        planner = int(check.stdout.readline())
        check.kill()
    assert ended(planner)


def tell_and_sleep(task: str) -> Values:
    print(os.getpid(), flush=True)
    return sleep(LONG_SECONDS)


def test_a_killed_planning_process_is_a_failed_topic(tmp_path: Path) -> None:
    def start(workers: Workers) -> Collect:
        return workers.plan(kill_itself, {"case": "x"})

    (topic,) = topics.find(["plans-unit-costs"])
    broken = replace(topic, start=start)
    results = list(gate.check([broken, broken], expected.default_directory(), update=False))
    assert [result.outcome for result in results] == ["failed", "failed"]
    assert results[0].reason.startswith("BrokenProcessPool: ")
    assert gate.exit_code(results) == 1


def test_an_error_of_a_launch_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("port")

    monkeypatch.setattr(counted.preparing, "prepare", lambda *arguments: None)
    monkeypatch.setattr(counted.run, "launch_row", broken)
    values = counted.launched_values()
    assert set(values) == set(counted.gloo_cases())
    assert {case["reason"] for case in values.values()} == {"KeyError: 'port'"}

"""Real torchrun launches: every ending gets its own status, and harms no other record."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import workloads
from benchmarks.job import Progress
from benchmarks.launch import preparing, run
from benchmarks.launch.gate import exit_code
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.ranks import processes
from benchmarks.launch.recording import Inputs
from benchmarks.records import record as records
from benchmarks.records.record import Record, Text
from benchmarks.reporting import tables
from benchmarks.rows.assign import assign
from benchmarks.rows.row import ROWS, Configuration, Row
from sppo.config.sizes import MIB

pytestmark = pytest.mark.slow

WORKLOAD = workloads.find("mini-cpu")
PATIENT = Options(launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=90)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun starts ranks that only play their part."""
    real = processes.command
    script = str(Path(__file__).with_name("scripted_worker.py"))

    def command(*arguments: Any) -> list[str]:
        line = real(*arguments)
        return [*line[:-3], script, line[-1]]

    monkeypatch.setattr(processes, "command", command)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)


def row(play: str) -> Configuration:
    return Configuration(
        row=Row(label=f"Plays {play}", system="megatron", choosing="tuned"),
        settings={"play": play},
        settings_text=play,
    )


def inputs(directory: Path) -> Inputs:
    for name in ("weights.pt", "tokens.npy"):
        (directory / name).touch()
    return Inputs(
        workload=WORKLOAD,
        directory=directory,
        text=Text(description="none", sha256=""),
        cpu_peak=None,
        environment={"cores": 1},
    )


def play(directory: Path, plays: Sequence[str], options: Options = PATIENT) -> list[Record]:
    parts = [row(name) for name in plays]
    return run.run(inputs(directory), parts, options, Lines())


def processes_left(directory: Path) -> list[int]:
    """Ranks that still run; a zombie has ended, and waits for whoever inherited it."""
    pids = [int(path.read_text()) for path in directory.rglob("pid-*")]
    left = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                left.append(pid)
        except psutil.NoSuchProcess:
            continue
    return left


ENDS = {
    "ok": ("ok", ""),
    "oom": ("oom", "rank 0, measured: oom at rank 0"),
    "host_oom": ("host_oom", ""),
    "infeasible": ("infeasible", ""),
    "unavailable": ("unavailable", ""),
    "crash": ("failed", "no report from rank 0, 1, exit code 1"),
    "error": ("failed", "rank 0, measured: a wrong shape"),
    "kill": ("failed", "rank 1 died (SIGKILL)"),
    "silent": ("failed", "no report from rank 1, exit code 0"),
    "other work": ("mismatch", "step 0: loss 5.5055, the reference has 5.5"),
}
"""By part: the status, and words of the reason."""

WHOLE = ("ok", "oom", "error", "kill")
"""Parts whose words are the whole reason."""


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(
    "plays",
    [
        ("ok", "oom", "kill", "silent", "other work"),
        pytest.param(tuple(ENDS), marks=pytest.mark.soak),
    ],
)
def test_every_ending_has_its_status_and_leaves_the_others_intact(
    plays: tuple[str, ...], tmp_path: Path
) -> None:
    done = play(tmp_path, plays)
    assert records.read_all(tmp_path) == done
    assert (done[0].row, done[0].status) == ("Reference", "ok")
    for record in done[1:]:
        status, words = ENDS[record.settings_text]
        assert record.status == status
        if record.settings_text in WHOLE:
            assert record.reason == words
        assert words in record.reason
    wrong = next(record for record in done if record.status == "mismatch")
    assert len(wrong.steps) == 4
    assert wrong.tokens_per_second_per_rank is None
    assert exit_code(done) == 1
    assert processes_left(tmp_path) == []
    assert not (tmp_path / "weights.pt").exists()
    assert not (tmp_path / "tokens.npy").exists()
    tables.text(done)


@pytest.mark.soak
@pytest.mark.usefixtures("scripted")
def test_results_alone_exit_0_and_launches_are_interleaved(tmp_path: Path) -> None:
    options = Options(launches=2, warmup_steps=0, measured_steps=2, time_limit_seconds=90)
    done = play(tmp_path, ["ok", "oom"], options)
    order = [(record.settings_text, record.launch) for record in done[1:]]
    assert order == [("ok", 1), ("oom", 1), ("oom", 2), ("ok", 2)], "there and back again"
    assert exit_code(done) == 0


@pytest.mark.usefixtures("scripted")
def test_a_hang_is_stopped_as_a_family(tmp_path: Path) -> None:
    """The ranks ignore TERM and live in sessions of their own."""
    options = Options(launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=15)
    done = play(tmp_path, ["hang", "ok"], options)
    assert [record.status for record in done] == ["ok", "timeout", "ok"]
    assert done[1].reason == "no end after 15 s, 4 steps done; stopped"
    assert processes_left(tmp_path) == []


class Interrupting(Lines):
    """Presses Ctrl-C twice: when a row hangs, and while the row is being stopped."""

    def step(self, label: str, progress: Progress) -> None:
        super().step(label, progress)
        if label.startswith("Plays hang") and progress.step == 0:
            for seconds in (0.2, 0.4):
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.usefixtures("scripted")
def test_an_interrupt_keeps_what_is_there(tmp_path: Path) -> None:
    parts = [row("ok"), row("hang"), row("oom")]
    with pytest.raises(KeyboardInterrupt):
        run.run(inputs(tmp_path), parts, PATIENT, Interrupting())
    assert [record.status for record in records.read_all(tmp_path)] == ["ok", "ok"]
    assert processes_left(tmp_path) == []
    assert not (tmp_path / "weights.pt").exists()


class Noting(Lines):
    """Notes the measured steps in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def step(self, label: str, progress: Progress) -> None:
        if progress.report.phase == "measured":
            self.order.append(label.removeprefix("Plays "))


@pytest.mark.usefixtures("scripted")
def test_rows_take_their_measured_steps_in_turn(tmp_path: Path) -> None:
    """Forwards, then backwards. A row that dies in its turn leaves the others theirs."""
    display = Noting()
    options = replace(PATIENT, measured_steps=3, in_turns=True)
    parts = [row("ok"), row("kill"), row("silent")]
    done = run.run(inputs(tmp_path), parts, options, display)
    ok, kill, silent = (f"{name}, launch 1" for name in ("ok", "kill", "silent"))
    turns = [step for step in display.order if not step.startswith("Reference")]
    assert turns == [ok, kill, silent, silent, kill, ok, ok, kill, silent]
    assert [record.status for record in done] == ["ok", "ok", "failed", "failed"]
    assert len({record.round for record in done[1:]}) == 1
    assert done[0].round is None
    assert records.read_all(tmp_path) == done
    assert processes_left(tmp_path) == []
    assert not list(tmp_path.rglob("turn"))


@pytest.mark.usefixtures("scripted")
def test_an_interrupt_ends_all_launches_that_wait_for_their_turn(tmp_path: Path) -> None:
    options = replace(PATIENT, in_turns=True)
    with pytest.raises(KeyboardInterrupt):
        run.run(inputs(tmp_path), [row("ok"), row("hang"), row("ok too")], options, Interrupting())
    started = len(list(tmp_path.rglob("pid-1")))
    assert started >= 2, "several were there; on a busy machine the third may come too late"
    assert processes_left(tmp_path) == []


@pytest.mark.soak
def test_a_row_refused_before_launch_is_recorded_once(tmp_path: Path) -> None:
    """Beside the reference, by the real worker."""
    refused = Configuration(
        row=Row(label="SPPO", system="sppo", choosing="planned"),
        status="infeasible",
        reason="1 GiB short",
    )
    options = Options(launches=2, measured_steps=2)
    directory = run.new_directory(tmp_path, WORKLOAD.name)
    prepared = preparing.prepare(WORKLOAD, options, directory)
    done = run.run(prepared, [refused], options, Lines())
    assert [(r.system, r.status) for r in done] == [("reference", "ok"), ("sppo", "infeasible")]
    assert exit_code(done) == 0
    reference = done[0]
    assert [step.tokens for step in reference.steps] == [64, 512, 512, 512]
    assert reference.steps[-1].loss is not None


@pytest.mark.soak
def test_a_real_refusal_on_two_ranks_is_oom_and_the_next_row_still_runs(tmp_path: Path) -> None:
    """The real worker and the real library under a limit that cannot hold even the weights."""
    rows = {name.slug: name for name in ROWS}
    tight = WORKLOAD.with_device_memory(1 * MIB)
    options = Options(launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=120)
    made = preparing.prepare(tight, options, run.new_directory(tmp_path, tight.name))
    try:
        refused = run.launch_row(
            made, assign(rows["megatron-same-layout"], tight), 1, options, Lines()
        )
        free = replace(made, workload=WORKLOAD.with_device_memory(None))
        fine = run.launch_row(free, assign(rows["sppo"], free.workload), 1, options, Lines())
    finally:
        preparing.remove_inputs(made)
    assert refused.status == "oom", refused.reason
    assert fine.status == "ok", fine.reason
    assert (
        fine.memory[0].activation_peak_bytes
        == ((fine.plan or {})["predicted_activation_peak_bytes"][0])
    )
    assert fine.bubble_share is not None
    assert {record.status for record in records.read_all(made.directory)} == {"oom", "ok"}

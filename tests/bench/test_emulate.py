"""`sppo-bench emulate` as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baselines.native.settings import NativeSettings
from baselines.protocol import Role, roles_of
from baselines.registry import load
from benchmarks.cli import main
from benchmarks.commands.planning.emulate import asked_roles
from benchmarks.emulation import emulator, processes
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import Counts, EmulationJob
from benchmarks.workloads import find, of_flags

ROLES = [Role(name=f"stage {rank}", rank=rank, ranks=1) for rank in range(2)]
BIG = ["--model", "gpt-7b", "--seq", "1M", "--gpus", "32"]


@pytest.mark.slow
@pytest.mark.soak
def test_a_stage_of_seven_billion_at_a_million_tokens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The known point: 73.07 GiB beside the model's state were seen by another way, to 1 %."""
    layout = ["--tp", "8", "--pp", "4", "--recompute", "full", "--sequences-per-step", "8"]
    arguments = ["emulate", "megatron", *BIG, *layout, "--ranks", "0", "--json"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    emulation = json.loads(capsys.readouterr().out)
    role = emulation["roles"][0]
    counts = role["counts"]
    held = counts["at_peak_by_kind_bytes"]
    state_bytes = held["weights"] + held["gradients"] + held["optimizer"]
    beside_gib = (counts["peak_device_bytes"] - state_bytes) / 2**30
    assert beside_gib == pytest.approx(73.07, rel=0.01)
    for key in ("peak_device_bytes", "peak_host_bytes", "flops", "communication_bytes"):
        assert role[key] == counts[key]
    assert emulation["fits"] is True
    assert emulation["limiting_role"] == "stage 0 (embedding), rank 0"
    assert emulation["label"] == "emulated"
    assert emulation["simulated_time"] is None, "one stage of four gives no time"
    assert role["versions"]["megatron-core"]
    assert role["seconds"] > 0
    assert role["process_peak_bytes"] < 8 * 2**30
    assert {path.name for path in next(tmp_path.iterdir()).iterdir()} >= {
        "emulation.json",
        "live-0.csv",
        "live-0.png",
        "role-0.json",
    }


@pytest.mark.slow
def test_a_role_that_breaks_does_not_stop_the_others(tmp_path: Path) -> None:
    job = EmulationJob(
        workload=find("mini-cpu"),
        system="native",
        settings=msgspec.to_builtins(NativeSettings(sequence_parallel=2)),
        output_directory=str(tmp_path),
    )
    roles = [Role(name="nowhere", rank=7, ranks=1), Role(name="stage 1", rank=1, ranks=1)]
    broken, whole = Emulator(parent=tmp_path, time_limit_seconds=200.0).run(job, roles)
    assert broken.status == "failed"
    assert broken.counts is None
    assert broken.reason
    assert broken.phase in ("start", "prepare")
    assert "Traceback" in (tmp_path / "log-7.txt").read_text()
    assert (whole.status, whole.phase) == ("ok", "step")
    assert whole.seconds is not None
    assert whole.seconds > 0.5, "importing torch and two steps take longer"
    assert whole.counts is not None


@pytest.fixture
def rank_0_fails_and_rank_1_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmulationJob:
    """A job whose workers are a shell script; its fifth argument is the rank."""
    script = tmp_path / "worker.sh"
    script.write_text(
        '#!/bin/sh\nif [ "$5" = 0 ]; then echo no memory; exit 3; fi\nexec sleep 60\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))
    return EmulationJob(
        workload=find("mini-cpu"), system="megatron", settings={}, output_directory=str(tmp_path)
    )


def test_a_rank_without_a_report_and_a_slow_rank(
    rank_0_fails_and_rank_1_hangs: EmulationJob, tmp_path: Path
) -> None:
    job = rank_0_fails_and_rank_1_hangs
    failed, slow = Emulator(parent=tmp_path, time_limit_seconds=1.0).run(job, ROLES)
    assert (failed.status, failed.reason) == ("failed", "ended with exit code 3: no memory")
    assert (slow.status, slow.reason) == ("timeout", "stopped after 1 s")


def test_a_worker_that_is_killed_is_named_and_stops_no_other(
    rank_0_fails_and_rank_1_hangs: EmulationJob, tmp_path: Path
) -> None:
    """As by TERM to one process of the pool, or by the kernel for want of memory."""
    script = '#!/bin/sh\nif [ "$5" = 0 ]; then kill -TERM $$; fi\nexit 3\n'
    (tmp_path / "worker.sh").write_text(script)
    pool = Emulator(parent=tmp_path, time_limit_seconds=60.0)
    killed, other = pool.run(rank_0_fails_and_rank_1_hangs, ROLES)
    assert (killed.status, killed.reason) == ("failed", "died (SIGTERM)")
    assert other.reason.startswith("ended with exit code 3")


def test_an_emulation_can_stop_at_the_first_role_that_does_not_fit(
    rank_0_fails_and_rank_1_hangs: EmulationJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "exceeds", lambda report, workload: report.rank == 0)
    job, started = rank_0_fails_and_rank_1_hangs, time.monotonic()
    stopping = Emulator(parent=tmp_path, time_limit_seconds=280.0, stop_at_first_oom=True)
    reports = stopping.run(job, ROLES)
    assert [report.rank for report in reports] == [0]
    assert time.monotonic() - started < 200, "the hanging role is not waited for"


def test_a_layout_the_library_refuses_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["emulate", "deepspeed", "--model", "gpt-7b", "--seq", "1M", "--gpus", "64"]
    assert main([*arguments, "--json"]) == 0
    emulation = json.loads(capsys.readouterr().out)
    assert emulation["status"] == "unavailable"
    assert emulation["fits"] is None
    assert emulation["roles"] == []
    assert emulation["simulated_time"] is None
    assert "head count 32" in emulation["reason"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["megatron", *BIG, "--tp", "8", "--pp", "3"], "does not divide 32 ranks"),
        (["megatron", *BIG, "--tp", "8"], "do not divide over DP 4"),
        (["megatron", *BIG[:2], "--seq", "1000001", *BIG[4:], "--tp", "8", "--pp", "4"], "tokens"),
        (["deepspeed", *BIG[:2], "--seq", "1000001", *BIG[4:]], "SP size 32"),
        (["deepspeed", *BIG, "--tp", "8"], "--tensor-parallel"),
        (["megatron", *BIG, "--tp", "8", "--pp", "4", "--ranks", "32"], "0 to 31"),
        (["sppo", *BIG, "--pp", "5"], "PP 5 does not fill 32 ranks; the nearest layout"),
        (["sppo", *BIG, "--recompute", "full"], "--recompute: no setting of sppo"),
        (["megatron"], "WORKLOAD"),
        (["megatron", "tiny-cpu", *BIG], "not both"),
        (["megatron", *BIG, "--hardware", "abacus"], "abacus"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulate", *arguments]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1


@pytest.mark.slow
@pytest.mark.soak
def test_stages_of_one_role_are_alike(tmp_path: Path) -> None:
    """A role stands for all its ranks: emulated one by one they count the same."""
    workload = of_flags(model="gpt-tiny", seq="16K", gpus=4, hardware="cpu-2core")
    adapter = load("sppo")
    settings = adapter.settings_type(pipeline_parallel=4, virtual_stages=1, msp=False)
    roles = roles_of(adapter, workload, settings)
    assert [(role.name, role.rank, role.ranks) for role in roles] == [
        ("stage 0 (embedding)", 0, 1),
        ("stages 1 to 2", 1, 2),
        ("stage 3 (head)", 3, 1),
    ]
    emulation = Emulator(parent=tmp_path, time_limit_seconds=200.0).emulate(
        workload, "sppo", settings, lambda known: asked_roles("1,2", known, workload)
    )
    first, second = (without_groups(role.counts) for role in emulation.roles)
    assert first["flops"] > 0
    assert first == second


def without_groups(counts: Counts | None) -> dict[str, Any]:
    """All counts except the groups of messages."""
    assert counts is not None
    plain: dict[str, Any] = msgspec.to_builtins(counts)
    for item in plain["communication"]:
        del item["group"]
    return plain

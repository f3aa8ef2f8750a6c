"""`sppo-bench profile` around the launch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.commands.measuring import profile
from benchmarks.worker.rates import measure_hardware
from sppo.config.hardware import PROFILES


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_is_torchrun_on_the_profiling_module() -> None:
    line = " ".join(profile.command("mine", Path("/x/mine.json"), 4)[1:])
    assert line == (
        "-m benchmarks.launch.ranks.agent --standalone --nnodes 1 --local-addr 127.0.0.1 "
        "--nproc-per-node 4 "
        "-m benchmarks.worker.rates.measure_hardware mine /x/mine.json"
    )


def test_rates_are_shown_as_measured_with_their_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(arguments: Sequence[str]) -> tuple[int, str]:
        shutil.copy(PROFILES / "cpu-2core.json", arguments[-1])
        return 0, ""

    monkeypatch.setattr(profile, "launch", measure)
    assert main(["profile", "mine", "--output", "mine.json"]) == 0
    captured = capsys.readouterr()
    assert "measured, GFLOP/s: tokens" in captured.out
    assert "d2h_bytes_per_second" in captured.out
    assert f"saved to {folder / 'mine.json'}" in captured.err
    assert main(["profile", "mine", "--output", "mine.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["label"] == "measured"
    assert told["path"] == str(folder / "mine.json")
    assert told["profile"] == json.loads((folder / "mine.json").read_text())


def test_a_failed_launch_exits_1_with_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "launch", lambda arguments: (3, "no such device"))
    assert main(["profile", "mine", "--output", "mine.json"]) == 1
    assert "exit code 3:\nno such device" in capsys.readouterr().err


def test_a_launch_that_wrote_nothing_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "launch", lambda arguments: (0, ""))
    assert main(["profile", "mine", "--output", "mine.json"]) == 1
    assert "mine.json" in capsys.readouterr().err


def test_output_and_code_of_a_launch() -> None:
    code = "import sys; print('said'); sys.exit(4)"
    assert profile.launch([sys.executable, "-c", code]) == (4, "said\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("cpu-2core", "a profile cpu-2core exists: take another name, or --output"),
        ("../mine", "is no profile name"),
        ("mine --ranks 1", "--ranks 1: an even number"),
        ("mine --ranks 3", "--ranks 3: an even number"),
        ("mine --output absent/mine.json", "absent; make it"),
    ],
)
def test_wrong_input_measures_nothing(
    arguments: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(profile, "launch", lambda arguments: pytest.fail("launched"))
    assert main(["profile", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("prefix", [0, 128])
def test_the_measured_stage_needs_no_other_rank(prefix: int) -> None:
    """Neither an MSP split nor a shard: the stage computes without messages."""
    part = measure_hardware._sampler(64, prefix).part
    assert part.plan.sequence_parallel == 1
    assert not part.plan.msp_splits
    assert part.plan.lengths_tokens[-1] == 64

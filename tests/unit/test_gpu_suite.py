"""`sppo-bench gpu-suite` around its steps: order, limits, files, failures and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cli import main
from benchmarks.commands.measuring import profile
from benchmarks.gpu import suite, worker
from benchmarks.gpu.place import TINY, Place
from benchmarks.gpu.step import Step, read
from benchmarks.records import store
from sppo.config.hardware import load_hardware

STEPS = {step.name: step for step in suite.STEPS}


SCRIPTS = {
    "good": "import json, sys; open(sys.argv[1], 'w').write(json.dumps({'found': 3}))",
    "broken": "print('before'); raise RuntimeError('the device is gone')",
    "absent": "print('no cuDNN here: take flash'); raise SystemExit(3)",
    "slow": "import time; print('started', flush=True); time.sleep(600)",
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps that are scripts: the suite around them is the real one."""
    steps = tuple(
        Step(name=name, shows=name, seconds=seconds, action="machine:describe")
        for name, seconds in (("broken", 200), ("slow", 4), ("absent", 100), ("good", 100))
    )
    monkeypatch.setattr(suite, "STEPS", steps)
    monkeypatch.setattr(suite, "WHOLE_SECONDS", 404.0)
    monkeypatch.setattr(suite, "START_SECONDS", 0.1)
    # The time that a step leaves would let the slow one sleep for minutes.
    monkeypatch.setattr(
        suite,
        "command",
        lambda step, device, limit, directory, values: [
            *(sys.executable, "-c", SCRIPTS[step.name], str(values))
        ],
    )


def test_a_step_that_fails_does_not_stop_the_suite(
    scripted: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = suite.run_step

    def run_step(timed: Any, directory: Path, device: str, limit: float, environment: Any) -> Any:
        return real(
            timed, directory, device, 2.0 if timed.step.name == "slow" else limit, environment
        )

    monkeypatch.setattr(suite, "run_step", run_step)
    said: list[str] = []
    files = suite.run(tmp_path, 404 / 60, "cpu", said.append)
    assert [each.status for each in files] == ["failed", "timeout", "unavailable", "ok"]
    broken, slow, absent, good = files
    assert broken.reason == "RuntimeError: the device is gone (01-broken.log)"
    assert "no end after 2 s" in slow.reason
    assert absent.reason == "no cuDNN here: take flash"
    assert good.values == {"found": 3}
    assert good.label == "measured"
    assert good.machine
    assert good.commit is None or len(good.commit) == 40
    assert read(tmp_path / "04-good.json") == good
    assert "started" in (tmp_path / "02-slow.log").read_text()
    # What the first step left, the later ones have.
    assert absent.limit_seconds > 100
    again = suite.run(tmp_path, 404 / 60, "cpu", said.append)
    assert again[3] == good
    assert "good: ok, measured before" in said
    assert again[0].started >= broken.started
    assert again[0] != broken, "a failed step runs again"


def test_the_limits_are_the_minutes() -> None:
    limits = [timed.limit_seconds for timed in suite.timed_steps(10)]
    assert sum(limits) == pytest.approx(600)
    assert min(limits) >= suite.START_SECONDS
    assert sum(each.limit_seconds for each in suite.timed_steps(20)) == pytest.approx(1200)


def test_every_step_has_an_action_and_a_place_in_the_order() -> None:
    order = ["machine", "tests", "sanitizer", "attention", "profile", "offload", "slice", "stages"]
    assert list(STEPS) == [*order, "groups", "run-16k", "run-32k"]


@pytest.mark.parametrize(
    ("raised", "code"), [(RuntimeError("broken"), 1), (None, 0), ("lacking", suite.UNAVAILABLE)]
)
def test_the_process_of_a_step(
    raised: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from sppo.config.errors import NotSupported

    def run(step: Step, place: Place) -> dict[str, Any]:
        assert place.sizes is TINY
        if raised is not None:
            raise NotSupported(raised) if isinstance(raised, str) else raised
        return {"found": 1}

    monkeypatch.setattr(Step, "run", run)
    monkeypatch.setattr(worker, "end_with_parent", lambda signal: None)
    values = tmp_path / "values.json"
    assert worker.main(["machine", "cpu", "30", str(tmp_path), str(values)]) == code
    assert values.exists() == (raised is None)
    last = capsys.readouterr().out.strip().splitlines()[-1:]
    assert last == {0: [], 1: ["RuntimeError: broken"], 3: ["lacking"]}[code]


def test_a_dry_run_shows_steps_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu-suite", "--dry-run", "--minutes", "12"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in STEPS)
    assert main(["gpu-suite", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["steps"]
    assert [each["step"] for each in told] == list(STEPS)
    assert sum(each["limit_seconds"] for each in told) == pytest.approx(600)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("gpu-suite", "no CUDA device here"),
        ("gpu-suite --minutes 1", "--minutes 1: take at least"),
        ("gpu-suite --minutes nan", "give positive minutes"),
        ("profile mine --gpu", "no CUDA device here"),
        ("profile mine --gpu --ranks 4", "leave --ranks out"),
    ],
)
def test_wrong_input_is_one_line_with_the_cure(
    arguments: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_runs_its_steps_and_resumes(
    scripted: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(suite, "STEPS", suite.STEPS[2:])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["gpu-suite", "--output", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in told["steps"]] == ["unavailable", "ok"]
    assert main(["gpu-suite", "--resume", told["directory"]]) == 0
    assert "good: ok, measured before" in capsys.readouterr().err
    assert main(["gpu-suite", "--resume", str(tmp_path / "none")]) == 2


def test_a_gpu_s_profile_gets_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(arguments: Sequence[str]) -> tuple[int, str]:
        assert list(arguments[1:5]) == ["-m", "benchmarks.gpu.worker", "profile", "cuda"]
        written = Path(arguments[-1]).with_name("profile.json")
        store.save(written, load_hardware("h100-80g"))
        return 0, ""

    monkeypatch.setattr(profile, "launch", measure)
    monkeypatch.setattr(profile, "check_device", lambda: None)
    path = tmp_path / "mine.json"
    assert main(["profile", "mine", "--gpu", "--output", str(path)]) == 0
    assert load_hardware(str(path)).name == "mine"
    assert json.loads(path.read_bytes())["name"] == "mine"

"""The examples run as they stand, from any folder."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from baselines import registry

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Runner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    return Runner(capsys)


class Runner:
    """Runs an example in this process, which has torch loaded already."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, name: str) -> str:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return self._capsys.readouterr().out


def test_every_example_is_short_and_has_a_test() -> None:
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 40, path.name
        assert f'run("{path.name}")' in tests


def test_plan_and_simulate(run: Runner) -> None:
    output = run("plan_and_simulate.py")
    assert "Plan of gpt-7b-1m" in output
    assert re.search(r"Stage 0 begins with .*F0\.0", output)
    assert re.search(r"Simulated: \d+\.\d s a step, idle \d+\.\d%", output)


def test_train_in_one_process(run: Runner) -> None:
    output = run("train_in_one_process.py")
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", output)]
    assert len(losses) == 20
    assert losses[-1] < losses[0] / 2
    stages = re.findall(
        r"predicted ([\d,]+) bytes, counted ([\d,]+) .* predicted (\d+), counted (\d+)", output
    )
    assert len(stages) == 4
    for kept, counted_kept, messages, counted_messages in stages:
        assert (kept, messages) == (counted_kept, counted_messages)


def test_add_a_system(run: Runner) -> None:
    output = run("add_a_system.py")
    assert "other work: none" in output
    with pytest.raises(ValueError, match="there is a system 'toy' already"):
        run("add_a_system.py")

"""A hardware file of the user's own: one profile and one name in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.cli import main
from sppo.config.hardware import PROFILES

MODEL = ("--model", "gpt-7b", "--seq", "32K", "--gpus", "8", "--stage-sharding", "tensor")

Shown = Callable[..., dict[str, float | str]]


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A copy of a committed profile with half its rates, under its old inner name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "nodes").mkdir()
    profile = json.loads((PROFILES / "a100-80g.json").read_text())
    for row in profile["rates"]:
        row.update({kind: rate / 2 for kind, rate in row.items() if kind != "tokens"})
    path = tmp_path / "nodes" / "my-slow.json"
    path.write_text(json.dumps(profile))
    return str(path.relative_to(tmp_path))


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Shown:
    def call(*arguments: str) -> dict[str, float | str]:
        assert main([*arguments, "--json"]) == 0
        return dict(json.loads(capsys.readouterr().out))

    return call


def test_every_command_uses_the_given_file(slow: str, shown: Shown, tmp_path: Path) -> None:
    planned = shown("plan", *MODEL, "--hardware", slow)
    simulated = shown("simulate", *MODEL, "--hardware", slow)
    committed = shown("simulate", *MODEL, "--hardware", "a100-80g")
    assert planned["hardware"] == simulated["hardware"] == "my-slow"
    assert simulated["makespan"] == pytest.approx(planned["makespan_seconds"])
    assert float(simulated["makespan"]) > 1.8 * float(committed["makespan"])

    drawn = shown("timeline", *MODEL, "--hardware", slow)
    assert Path(str(drawn["directory"])).parts[-2:] == ("runs", "timeline-gpt-7b-32k-8xmy-slow")
    trace = (Path(str(drawn["directory"])) / "simulated" / "rank-0.json").read_text()
    events = json.loads(trace)["traceEvents"]
    drawn_seconds = max(event.get("ts", 0) + event.get("dur", 0) for event in events) / 1e6
    assert drawn_seconds > 1.8 * float(committed["makespan"])


def test_a_file_named_like_a_committed_profile_is_itself(slow: str, shown: Shown) -> None:
    namesake = Path(slow).rename("a100-80g.json")
    simulated = shown("simulate", *MODEL, "--hardware", str(namesake))
    committed = shown("simulate", *MODEL, "--hardware", "a100-80g")
    assert float(simulated["makespan"]) > 1.8 * float(committed["makespan"])


def test_two_files_name_two_workloads(slow: str) -> None:
    other = Path(slow).with_name("my-fast.json")
    other.write_text(Path(slow).read_text())
    names = {
        workloads.of_flags(model="gpt-7b", seq="32K", gpus=8, hardware=path).name
        for path in (slow, str(other))
    }
    assert names == {"gpt-7b-32k-8xmy-slow", "gpt-7b-32k-8xmy-fast"}

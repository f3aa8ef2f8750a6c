"""Started in a folder that holds packages of our names, every process loads ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.environment import CHECKOUT, import_path
from benchmarks.launch.ranks.processes import variables
from benchmarks.worker.matmul_peak import measured_peak

NAMES = ("sppo", "baselines", "benchmarks", "torch", "platform")


@pytest.fixture
def decoys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in: our names, torch's, and one of the standard library's."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a decoy')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def _start(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_process_of_ours_is_not_misled(decoys: Path) -> None:
    code = "import sppo, baselines, benchmarks, platform; print(sppo.__file__, benchmarks.__file__)"
    misled = _start("-c", code, environment={})
    assert misled.returncode == 1
    assert "a decoy" in misled.stderr
    done = _start("-c", code, environment=variables(1, {}))
    assert done.stdout.split() == [
        str(CHECKOUT / name / "__init__.py") for name in ("sppo", "benchmarks")
    ]


def test_a_users_own_path_stays_behind_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    assert import_path()["PYTHONPATH"] == f"{CHECKOUT}{os.pathsep}/of/the/user"
    assert variables(1, {"PYTHONSAFEPATH": ""})["PYTHONSAFEPATH"] == "", "an adapter has the word"


@pytest.mark.slow
def test_ranks_and_measurements_start_among_decoys(decoys: Path) -> None:
    """torchrun, a rank, an emulated rank, and the process that measures the peak."""
    for module in ("benchmarks.launch.ranks.agent", "benchmarks.worker.rank"):
        started = _start("-m", module, "--help", environment=variables(1, {}))
        assert started.returncode == 0, started.stderr
    worker = _start("-c", "import benchmarks.emulation.worker", environment=variables(1, {}))
    assert worker.returncode == 0, worker.stderr
    assert measured_peak(1) is not None

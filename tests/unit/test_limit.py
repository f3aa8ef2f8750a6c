"""The search for a workload's device memory, with scripted launches."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.job import Memory
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.recording import Inputs
from benchmarks.records.record import Record, Text
from benchmarks.rows.row import Configuration
from benchmarks.studies import limit
from sppo.config.sizes import MIB
from tests.unit.records_factory import record

PEAK_MIB = 100


def search(monkeypatch: pytest.MonkeyPatch, folder: Path, least_mib: int) -> limit.DeviceLimit:
    """The tracked peak is PEAK_MIB and a bit; a launch runs with `least_mib` or more."""

    def launch(
        inputs: Inputs, configuration: Configuration, number: int, options: Options, _: object
    ) -> Record:
        limit_bytes = inputs.workload.device_memory_bytes
        runs = limit_bytes is None or limit_bytes >= least_mib * MIB
        return record(
            row=configuration.row.label,
            device_memory_bytes=limit_bytes,
            status="ok" if runs else "oom",
            reason="" if runs else "no memory",
            memory=[Memory(tracked_peak_bytes=PEAK_MIB * MIB + 1)],
        )

    workload = workloads.find("mini-cpu")
    text = Text(description="", sha256="")
    inputs = Inputs(workload=workload, directory=folder, text=text, cpu_peak=None, environment={})
    monkeypatch.setattr(limit, "prepare", lambda *_: inputs)
    monkeypatch.setattr(limit, "assign", lambda row, _: Configuration(row=row))
    monkeypatch.setattr(limit, "launch_row", launch)
    return limit.search(workload, folder, Lines())


@pytest.mark.parametrize("least_mib", [101, 102, 117, 131, 132])
def test_the_least_mib_that_runs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, least_mib: int
) -> None:
    result = search(monkeypatch, tmp_path, least_mib)
    assert result.device_memory_bytes == least_mib * MIB
    assert result.tracked_peak_bytes == PEAK_MIB * MIB + 1
    sizes = [trial.device_memory_bytes for trial in result.trials]
    assert sizes[:3] == [None, 132 * MIB, 116 * MIB]
    assert len(sizes) == len(set(sizes)) == 7


def test_a_baseline_that_never_runs_has_no_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(limit.NoLimit, match="does not run with 132 MiB: no memory"):
        search(monkeypatch, tmp_path, 200)

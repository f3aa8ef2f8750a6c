"""The measured peak does not follow the noise of its measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.records import store
from benchmarks.records.record import Peak
from benchmarks.worker import matmul_peak, steady_peak


class Measurement:
    """What the next measurement gives, in FLOP/s; None: it fails."""

    def __init__(self) -> None:
        self.rate: float | None = 1.0

    def __call__(self, threads: int, device: str, dtype: str) -> Peak | None:
        if self.rate is None:
            return None
        source = f"best product, {device}"
        return Peak(flops_per_second=self.rate, source=source, kind="measured")

    def steady(self, rate: float | None, device: str = "cpu") -> float | None:
        """The steady peak of a run that measures this rate."""
        self.rate = rate
        peak = steady_peak.steady_peak(1, device)
        return None if peak is None else peak.flops_per_second


@pytest.fixture
def measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measurement:
    fake = Measurement()
    monkeypatch.setattr(steady_peak, "measured_peak", fake)
    monkeypatch.setattr(store, "results_directory", lambda: tmp_path)
    return fake


def test_a_busy_run_has_the_peak_of_the_quiet_ones(measurement: Measurement) -> None:
    """The field report: 0.153 and 0.059 TFLOP/s gave 4.6 % and 5.3 % for one workload."""
    assert [measurement.steady(rate) for rate in (0.15, 0.059, None, 0.153, 0.1)] == [
        0.15,
        0.15,
        0.15,
        0.153,
        0.153,
    ]


def test_devices_and_threads_have_peaks_of_their_own(measurement: Measurement) -> None:
    """A GPU that no datasheet lists has the same trouble as a CPU."""
    assert measurement.steady(2.0) == 2.0
    assert measurement.steady(300.0, "cuda") == 300.0
    assert measurement.steady(200.0, "cuda") == 300.0
    assert measurement.steady(1.0) == 2.0


def test_the_source_says_that_other_runs_count(measurement: Measurement) -> None:
    peak = steady_peak.steady_peak(1)
    assert peak is not None
    assert peak.source.startswith("best product, cpu; the best of all runs here, 20")


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "sppo-peaks/1", "peaks": {"a": 1}}'])
def test_a_damaged_file_is_measured_anew(measurement: Measurement, content: str) -> None:
    path = steady_peak.path()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert measurement.steady(3.0) == 3.0
    assert measurement.steady(2.0) == 3.0


def test_a_folder_that_cannot_be_written_stops_nothing(
    measurement: Measurement, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert measurement.steady(3.0) == 3.0
    assert measurement.steady(None) is None


def test_a_product_fits_between_two_turns_of_a_neighbour() -> None:
    """Products of 1024 rows need 30 ms in a row, which a shared core does not have."""
    assert 2 * matmul_peak.matrix_size("cpu") ** 3 < 0.5e9

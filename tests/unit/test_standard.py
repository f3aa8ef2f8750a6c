"""In bfloat16 rows are compared with float32, within twice the error of plain torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.commands.machine import check_machine, why_no_device
from benchmarks.launch import run, time_limits
from benchmarks.launch.gate import gate
from benchmarks.launch.progress import Lines
from benchmarks.launch.recording import Inputs
from benchmarks.records.record import Record
from benchmarks.records.standard import FACTOR, LEAST_ERROR, standard
from benchmarks.reporting.header_words import equal_work_lines
from benchmarks.rows.references import references
from benchmarks.rows.row import EXACT_REFERENCE, REFERENCE, slug_of
from tests.unit.records_factory import record, step

NARROW = replace(workloads.find("mini-cpu"), dtype="bfloat16")
EXACT = [step(5.0, 1.0), step(4.0, 2.0)]


def reference(dtype: str | None, *steps: Any, **changes: Any) -> Record:
    row = EXACT_REFERENCE.label if dtype else REFERENCE.label
    changes = {"workload": NARROW, "settings": {"dtype": dtype}, **changes}
    return record(system="reference", row=row, ranks=1, steps=list(steps), **changes)


def plain(loss: float, norm: float) -> Record:
    """Plain torch in bfloat16, so far from float32 in its second step."""
    return reference(None, step(5.0, 1.0), step(4.0 * (1 + loss), 2.0 * (1 + norm)))


def row(loss: float, norm: float, **changes: Any) -> Record:
    steps = [step(5.0, 1.0), step(4.0 * (1 + loss), 2.0 * (1 + norm))]
    return record(workload=NARROW, steps=steps, **changes)


def test_a_row_may_have_twice_the_error_of_plain_torch() -> None:
    chosen = standard([reference("float32", *EXACT), plain(3e-3, -8e-3), row(0, 0)])
    assert chosen.measured
    assert chosen.steps == EXACT
    assert chosen.allowed == pytest.approx({"loss": 6e-3, "grad_norm": 1.6e-2})
    assert FACTOR == 2.0


def test_a_small_error_of_plain_torch_may_be_chance() -> None:
    chosen = standard([reference("float32", *EXACT), plain(1e-7, 1e-7)])
    assert chosen.allowed == dict.fromkeys(("loss", "grad_norm"), 2 * LEAST_ERROR)


@pytest.mark.parametrize(
    "missing",
    [
        [plain(1e-3, 1e-3)],
        [reference("float32", *EXACT, status="oom", reason="full"), plain(1e-3, 1e-3)],
        [reference("float32", step(None, 1.0), step(4.0, 2.0)), plain(1e-3, 1e-3)],
    ],
)
def test_without_a_whole_reference_in_float32_the_old_share_counts(missing: list[Record]) -> None:
    chosen = standard(missing)
    assert not chosen.measured
    assert chosen.allowed == {"loss": 2e-2, "grad_norm": 2e-2}
    assert chosen.steps == plain(1e-3, 1e-3).steps


@pytest.mark.parametrize(
    ("loss", "norm", "status"),
    [
        (1.9e-3, 0.0, "ok"),
        (2.1e-3, 0.0, "mismatch"),
        (0.0, 4.1e-3, "mismatch"),
    ],
)
def test_the_gate_judges_by_that_error(
    loss: float, norm: float, status: str, tmp_path: Path
) -> None:
    done = [reference("float32", *EXACT), plain(1e-3, 2e-3), row(loss, norm)]
    for name in ("reference-float32-1", "reference-1", "sppo-1"):
        (tmp_path / name).mkdir()
    judged = gate(tmp_path, done, Lines())
    assert judged[-1].status == status
    if status == "mismatch":
        assert "the reference in float32 has" in judged[-1].reason
        assert (f"allowed: {2e-3 if loss else 4e-3:.3g}") in judged[-1].reason
    (line,) = equal_work_lines(judged)
    assert line.endswith("of float32, twice the error of plain torch in bfloat16")
    assert "loss within 0.002 and gradient norm within 0.004" in line


def test_in_float32_nothing_has_changed() -> None:
    done = [record(system="reference", row="Reference", settings={"dtype": None}), record()]
    (line,) = equal_work_lines(done)
    assert line.endswith("loss and gradient norm within 1e-05")


def test_a_workload_in_bfloat16_has_two_references_in_one_process_each() -> None:
    workload = workloads.find("gpt-1b-16k-1xh100")
    exact, narrow = references(workload)
    assert (exact.row, narrow.row) == (EXACT_REFERENCE, REFERENCE)
    assert (exact.settings["dtype"], narrow.settings["dtype"]) == ("float32", None)
    assert "float32" in exact.settings_text
    assert slug_of(exact.row.label) == exact.row.slug == "reference-float32"
    assert [each.row for each in references(workloads.find("tiny-cpu"))] == [REFERENCE]
    seconds = [time_limits.expected_step_seconds(workload, each) for each in (exact, narrow)]
    assert seconds[0] == 16 * seconds[1]


def inputs(tmp_path: Path, workload: Any, gpus: list[str]) -> Inputs:
    return Inputs(
        workload=workload,
        directory=tmp_path,
        text=record().text,
        cpu_peak=None,  # type: ignore[arg-type]
        environment={"gpus": gpus, "cores": 2},
    )


def test_a_card_without_a_datasheet_peak_is_named(tmp_path: Path) -> None:
    workload = workloads.find("gpt-1b-16k-1xh100")
    known, unknown = "NVIDIA H100 80GB HBM3", "NVIDIA Z900"
    assert run.unknown_cards(inputs(tmp_path, workload, [known, unknown, unknown])) == [unknown]
    assert run.unknown_cards(inputs(tmp_path, NARROW, [unknown])) == [], "a CPU workload"


def test_a_launch_job_of_both_references_has_one_rank(tmp_path: Path) -> None:
    workload = workloads.find("gpt-1b-16k-1xh100")
    for configuration in references(workload):
        job = run.make_job(inputs(tmp_path, workload, []), configuration, 1, run.Options())
        assert (job.ranks, job.account, job.measured_steps) == (1, False, 3)
        assert job.workload.dtype == "bfloat16", "its initial weights"


@pytest.mark.parametrize(
    ("cuda", "gpus", "cure"),
    [
        (None, [], "install with -c constraints-gpu.txt"),
        ("13.0", [], "no NVIDIA driver answers: run nvidia-smi"),
        ("13.0", ["NVIDIA H100 80GB HBM3"], "newer than the driver"),
    ],
)
def test_a_machine_without_a_usable_gpu_says_why(
    cuda: str | None, gpus: list[str], cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("benchmarks.commands.machine.gpu_names", lambda: gpus)
    assert cure in why_no_device()
    with pytest.raises(Exception, match=r"1 x 1 CUDA devices, this machine has 0 \(") as error:
        check_machine(workloads.find("gpt-1b-16k-1xh100"))
    assert cure in str(error.value)
    assert "\n" not in str(error.value)


def test_a_study_advises_its_own_command_where_nodes_are_missing() -> None:
    workload = workloads.find("gpt-7b-1m-32xa100")
    with pytest.raises(Exception, match=r"`sppo-bench sweep gpt-7b-1m-32xa100 --nodes 4` on every"):
        check_machine(workload, command="sweep")

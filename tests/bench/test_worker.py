"""Real launches of the reference under torchrun: the report, the limit, the words for failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed as dist

from baselines.protocol import Unavailable
from benchmarks.job import PROGRESS_PREFIX, Job, Progress, RankError, RankReport
from benchmarks.records.metrics import step_flops
from benchmarks.worker import failures, rank
from benchmarks.worker.tokens import token_file
from benchmarks.worker.weights import initial_weights, save_weights
from sppo.config.errors import HostTierFull, Infeasible, NotSupported
from sppo.config.models import llama
from sppo.config.sizes import MIB
from sppo.config.workload import Cluster, Workload
from sppo.plan.weights import parameter_count
from tests.unit.test_installed_systems import install

ROOT = Path(__file__).resolve().parents[2]
MODEL = llama("little", layers=2, hidden=128, heads=4, kv_heads=2, ffn=344, vocabulary=256)


def make_job(folder: Path, limit_bytes: int | None = None, **changes: Any) -> Job:
    workload = Workload(
        name="little",
        model=MODEL,
        cluster=Cluster(hardware="cpu", device="cpu", nodes=1, ranks_per_node=1),
        sequence_tokens=2048,
        device_memory_bytes=limit_bytes,
    )
    token_file(workload, 4, folder / "tokens.npy")
    save_weights(initial_weights(MODEL, 1, torch.float32), folder / "weights.pt")
    values: dict[str, Any] = {
        "workload": workload,
        "system": "reference",
        "row": "reference",
        "launch": 1,
        "settings": {},
        "weights_path": str(folder / "weights.pt"),
        "tokens_path": str(folder / "tokens.npy"),
        "output_directory": str(folder),
        "ranks": 1,
        "warmup_steps": 1,
        "measured_steps": 1,
    }
    return Job(**(values | changes))


def launch(job: Job, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    path = Path(job.output_directory) / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*torchrun, "--nproc-per-node", str(ranks), "-m", "benchmarks.worker.rank", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def report_of(job: Job) -> RankReport:
    content = (Path(job.output_directory) / "rank-0.json").read_bytes()
    return msgspec.json.decode(content, type=RankReport)


def error_of(job: Job) -> RankError:
    content = (Path(job.output_directory) / "error-0.json").read_bytes()
    return msgspec.json.decode(content, type=RankError)


@pytest.mark.slow
def test_a_report_and_the_limit_that_its_peak_tells(tmp_path: Path) -> None:
    """The least limit that passes is the tracked peak, within 2 MiB (0.25 MiB when measured)."""
    job = make_job(tmp_path)
    result = launch(job)
    assert result.returncode == 0, result.stderr
    report = report_of(job)
    assert [step.phase for step in report.steps] == [
        "throw-away",
        "accounted",
        "warm-up",
        "measured",
    ]
    assert [step.tokens for step in report.steps] == [64, 2048, 2048, 2048]
    lines = [line for line in result.stdout.splitlines() if line.startswith(PROGRESS_PREFIX)]
    progress = [msgspec.json.decode(line[len(PROGRESS_PREFIX) :], type=Progress) for line in lines]
    assert [item.report for item in progress] == report.steps
    assert {item.steps for item in progress} == {4}

    memory = report.memory
    assert memory.enforcement == "no limit"
    assert memory.tracked_peak_bytes is not None
    assert memory.tracked_peak_by_kind_bytes["weights"] == 4 * parameter_count(MODEL)
    assert memory.tracked_peak_by_kind_bytes["gradients"] == 4 * parameter_count(MODEL)
    assert sum(memory.tracked_at_peak_by_kind_bytes.values()) == memory.tracked_peak_bytes
    assert memory.untracked_peak_bytes is not None
    assert 0 <= memory.untracked_peak_bytes < 2 * MIB
    assert report.accounted is not None
    flops = step_flops(job.workload)
    assert report.accounted.flops["aten.mm"] == flops.dense
    assert report.environment["versions"]["torch"] == torch.__version__

    for folder, spare_bytes in (("above", 2 * MIB), ("below", -MIB)):
        (tmp_path / folder).mkdir()
        limited = make_job(tmp_path / folder, memory.tracked_peak_bytes + spare_bytes)
        result = launch(limited)
        if spare_bytes > 0:
            assert result.returncode == 0, result.stderr
            if report_of(limited).memory.enforcement != "rlimit":
                pytest.skip("this kernel does not enforce RLIMIT_DATA")
            assert report_of(limited).memory.tracked_peak_bytes == memory.tracked_peak_bytes
        else:
            assert result.returncode != 0
            error = error_of(limited)
            assert (error.status, error.phase) == ("oom", "accounted")
            assert "can't allocate memory" in error.message
            assert "of tracked tensors and" in error.message
            assert error.refusal is not None
            assert error.refusal.limit_bytes == memory.tracked_peak_bytes + spare_bytes
            assert 0 < error.refusal.tracked_bytes < memory.tracked_peak_bytes
            assert error.refusal.untracked_bytes < 2 * MIB
            assert "can't allocate memory" in result.stderr, "the log must tell it too"
            assert not (tmp_path / folder / "rank-0.json").exists()


@pytest.mark.slow
@pytest.mark.soak
def test_without_accounting_there_is_no_accounted_step_and_no_limit(tmp_path: Path) -> None:
    job = make_job(tmp_path, 8 * MIB, account=False)
    result = launch(job)
    assert result.returncode == 0, result.stderr
    report = report_of(job)
    assert [step.phase for step in report.steps] == ["throw-away", "warm-up", "measured"]
    assert report.accounted is None
    assert report.memory.tracked_peak_bytes is None
    assert report.memory.enforcement == "no limit"


@pytest.mark.slow
def test_a_wrong_number_of_ranks_is_said_clearly(tmp_path: Path) -> None:
    job = make_job(tmp_path, ranks=2)
    result = launch(job)
    assert result.returncode != 0
    assert "exitcode  : 2 " in result.stderr, "torchrun tells the worker's"
    assert "error: the job wants 2 ranks and WORLD_SIZE is 1" in result.stderr
    assert "ValueError" not in result.stderr
    error = error_of(job)
    assert error.status == "failed"
    assert "the job wants 2 ranks and WORLD_SIZE is 1" in error.message


@pytest.mark.slow
def test_a_worker_by_itself_ends_with_exit_code_2_and_one_line(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    path = tmp_path / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    environment = {name: text for name, text in os.environ.items() if name != "WORLD_SIZE"}
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker.rank", str(path)],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 2
    said = "the job wants 1 ranks and WORLD_SIZE is None; start it by torchrun with 1 processes"
    assert result.stderr == f"error: {said} in all\n"
    assert not result.stdout
    assert error_of(job).message == f"{said} in all"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("full"), "oom"),
        (HostTierFull("full"), "host_oom"),
        (Infeasible("short of memory"), "infeasible"),
        (Unavailable("needs CUDA"), "unavailable"),
        (NotSupported("msp"), "unavailable"),
        (RuntimeError("Connection closed by peer"), "failed"),
        (FloatingPointError("loss nan"), "failed"),
    ],
)
def test_the_type_of_an_error_gives_the_status(error: Exception, status: str) -> None:
    assert failures.status_of(error, limit_in_force=True) == status


def caused_by(cause: Exception) -> Exception:
    """A library's own error, raised while it handles the cause."""
    try:
        try:
            raise cause
        except Exception:
            raise KeyError("handle") from None
    except KeyError as error:
        return error


def test_only_a_peers_end_is_a_lost_peer() -> None:
    gloo = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:41245"
    assert failures.lost_peer(RuntimeError(gloo))
    assert failures.lost_peer(caused_by(RuntimeError(gloo)))
    assert failures.lost_peer(dist.DistStoreError("wait timeout after 10ms, keys: /a"))
    assert not failures.lost_peer(RuntimeError("shapes do not match"))
    assert not failures.lost_peer(caused_by(ValueError("shapes do not match")))
    assert not failures.lost_peer(FloatingPointError("loss nan"))


def test_a_loss_that_is_no_number_is_a_failure() -> None:
    report = rank.StepReport(
        phase="measured", tokens=8, seconds=1.0, loss=float("nan"), grad_norm=1.0
    )
    with pytest.raises(FloatingPointError, match=r"step 3 \(measured\): loss nan"):
        rank.check_finite(3, report)


@pytest.mark.slow
@pytest.mark.soak
def test_the_reference_refuses_two_ranks_in_its_own_words(tmp_path: Path) -> None:
    result = launch(make_job(tmp_path, ranks=2), ranks=2)
    assert result.returncode != 0
    assert "Unavailable: the reference runs in one process" in result.stderr


@pytest.mark.slow
@pytest.mark.soak
def test_a_system_of_another_package_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its entry point in the ranks too; the work is the reference's own."""
    install(tmp_path, monkeypatch, "toy = tests.toy_system:ADAPTER")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    job = make_job(tmp_path, system="toy", settings={"degree": 2}, measured_steps=1)
    result = launch(job)
    assert result.returncode == 0, result.stderr
    assert [step.phase for step in report_of(job).steps][-1] == "measured"

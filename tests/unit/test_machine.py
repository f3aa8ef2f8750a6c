"""What a machine does to a command: streams, disks, variables of other launchers."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import cli, environment, standard_streams
from benchmarks.commands.arguments import UsageError, chosen_systems, usage_errors
from benchmarks.commands.planning.emulate_settings import system_named
from benchmarks.launch import preparing, run
from benchmarks.launch.ranks import processes
from benchmarks.records import store
from benchmarks.records.machine_errors import machine_words, records_so_far
from benchmarks.studies import sweep
from benchmarks.worker import weights
from benchmarks.worker.weights import save_weights
from benchmarks.workloads import find


@pytest.fixture
def text_stream(tmp_path: Path) -> Any:
    """A forgiving stream on a file, in ASCII."""
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    raw = standard_streams.ForgivingStream(descriptor)
    before = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    yield standard_streams._text(raw, before)
    os.close(descriptor)


def test_what_an_encoding_lacks_is_escaped_as_json_escapes_it(
    text_stream: Any, tmp_path: Path
) -> None:
    standard_streams.register_escape()
    value = "caf\udce9 \u2265 \U0001f600"
    text_stream.write(json.dumps(value, ensure_ascii=False))
    text_stream.flush()
    assert json.loads((tmp_path / "out").read_bytes()) == value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stream_keeps_its_first_error_and_drops_the_rest() -> None:
    stream = standard_streams.ForgivingStream(os.open("/dev/full", os.O_WRONLY))
    assert stream.write(b"a") == 1
    assert stream.error is not None
    assert stream.error.errno == errno.ENOSPC
    assert stream.write(b"more") == 4
    os.close(stream.fileno())


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(errno.ENOSPC, 0, 1), (errno.ENOSPC, 2, 2), (errno.EPIPE, 0, 141), (None, 130, 130)],
)
def test_a_lost_output_is_an_error(
    number: int | None, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = standard_streams.ForgivingStream(1)
    stream.error = None if number is None else OSError(number, os.strerror(number))
    assert standard_streams.closing_status(stream, status, 141) == code
    assert ("No space left" in capsys.readouterr().err) == (number == errno.ENOSPC)


def _full_disk() -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/x.json")


def _no_memory() -> int:
    raise MemoryError


def _damaged() -> int:
    raise store.RecordError("x.json: damaged; delete it")


@pytest.mark.parametrize(
    ("fails", "code", "words"),
    [
        (_full_disk, 1, "error: /results/x.json: No space left on device\n"),
        (_no_memory, 1, "error: out of memory\n"),
        (_damaged, 2, "error: x.json: damaged; delete it\n"),
    ],
)
def test_the_machines_fault_is_one_line(
    fails: Callable[[], int],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "parse", lambda arguments: SimpleNamespace(run=fails))
    assert cli.main(["list"]) == code
    assert capsys.readouterr().err == words


def test_records_so_far_are_named_and_no_wrong_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sppo-1").mkdir()
    (tmp_path / "sppo-1" / "record.json").touch()

    def fails() -> int:
        with usage_errors(OSError), records_so_far(tmp_path), records_so_far(tmp_path / "sppo-1"):
            return _full_disk()

    monkeypatch.setattr(cli, "parse", lambda arguments: SimpleNamespace(run=fails))
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [f"records so far: {tmp_path}"]


def test_a_failure_before_the_first_record_names_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No space left"), usage_errors(OSError):  # noqa: SIM117
        with records_so_far(tmp_path):
            _full_disk()


def test_an_error_without_a_number_is_one_line() -> None:
    assert machine_words(OSError("two\nlines")) == "two lines"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_weights_on_a_full_disk_are_an_error_of_the_machine() -> None:
    import torch

    with pytest.raises(OSError, match="/dev/full"):
        save_weights({"weight": torch.zeros(1_000_000)}, Path("/dev/full"))


def test_weights_beyond_the_memory_are_an_error_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(weights, "initial_weights", lambda *_: torch.empty(10**15))
    with pytest.raises(MemoryError):
        preparing.write_weights(find("mini-cpu"), tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_whose_name_no_record_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        run.new_directory(tmp_path / "r\udce9s", "mini-cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_launch_inherits_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PET_NNODES", "TORCHELASTIC_RUN_ID", "RANK", "MASTER_ADDR", "ROLE_NAME"):
        monkeypatch.setenv(name, "1:4")
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    inherited = environment.child_environment({"RANK": "0"})
    assert inherited["RANK"] == "0", "a variable of ours"
    assert inherited["NCCL_DEBUG"] == "WARN"
    assert not {"PET_NNODES", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "ROLE_NAME"} & set(inherited)


@pytest.mark.parametrize("name", ["GROUP_ID", "ROLE_ARN"])
def test_a_launch_inherits_the_users_own_groups_and_roles(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "a")
    assert environment.child_environment({})[name] == "a"


def test_one_node_is_alone_and_on_loopback() -> None:
    """A printed line runs in the user's shell, with its PET_NNODES."""
    line = " ".join(processes.torchrun(2, "a.module"))
    assert "--nnodes 1 --local-addr 127.0.0.1" in line


def test_an_empty_entry_of_the_path_is_the_current_folder_and_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/mine{os.pathsep}")
    assert environment.import_path()["PYTHONPATH"] == f"{environment.CHECKOUT}{os.pathsep}/mine"


def test_recorded_values_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "caf\udce9")
    assert environment.describe_environment()["variables"]["WANDB_PROJECT"] == r"caf\xe9"


@pytest.mark.parametrize(
    ("columns", "expected"), [("1", "40"), ("80", "80"), ("999999999", "1000"), ("wide", None)]
)
def test_text_is_wrapped_for_a_width_that_can_be(
    columns: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    standard_streams.bound_columns()
    assert os.environ["COLUMNS"] == (expected or columns)


CLOSED = """
import os, subprocess, sys
from benchmarks import standard_streams
os.close(2)
standard_streams.prepare()
sys.exit(subprocess.run([sys.executable, "-c", "import os; os.fstat(2)"]).returncode)
"""


def test_a_child_has_a_stream_that_was_closed() -> None:
    """Else the first file that the child opens becomes its standard error."""
    assert subprocess.run([sys.executable, "-c", CLOSED], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        ([], ["deepspeed-ulysses", "megatron-tuned", "pytorch-native", "sppo"]),
        (["sppo", "megatron"], ["megatron-tuned", "sppo"]),
        (["megatron-same-layout", "SPPO"], ["megatron-same-layout", "sppo"]),
    ],
)
def test_a_sweep_takes_the_rows_of_a_run(names: list[str], rows: list[str]) -> None:
    assert [row.slug for row in sweep.rows_of(names)] == rows


def test_systems_have_one_name_in_every_command() -> None:
    known = ["deepspeed", "megatron", "sppo"]
    assert chosen_systems(("megatron-tuned,SPPO",), known) == ["megatron", "sppo"]
    assert [system_named(name) for name in ("Megatron", "sppo", "mine")] == [
        *("megatron", "sppo", "mine")
    ]

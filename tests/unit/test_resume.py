"""Commands that are killed at every moment go on where they were, and measure nothing twice."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.cli import main, parse
from benchmarks.commands.run_folder import PLACE, name_of, words
from benchmarks.file_names import openable
from benchmarks.launch import run_file
from benchmarks.launch.recording import as_mismatch, before_gate
from benchmarks.records import record as records
from tests.unit.scripted_launches import killed_at, launches, scripted

RUN = ["run", "mini-cpu", "--measured-steps", "2", "--systems", "sppo", "--no-wandb"]

SHORT = ("mini-cpu", "--no-wandb")

COMMANDS: list[list[str]] = [
    ["sweep", *SHORT, "--launches", "1", "--systems", "sppo", "--device-memory", "150MiB,none"],
    ["ablation", *SHORT, "--policies", "auto,paper", "--launches", "1"],
    ["limit", *SHORT],
    ["run", *SHORT, "--systems", "megatron", "--tune"],
    ["longest", *SHORT, "--systems", "sppo", "--at-most", "1K", "--device-memory", "150MiB"],
]


def only_folder(parent: Path) -> Path:
    (folder,) = (path for path in parent.glob("*-mini-cpu*") if path.is_dir())
    return folder


def go_on(arguments: Sequence[str], parent: Path, folder: Path) -> int:
    with scripted(parent):
        return main([*arguments, "--resume", str(folder)])


def check_killed(number: int, arguments: Sequence[str], parent: Path) -> bool:
    """Kill at one moment and go on. False where the command ended before that moment."""
    parent.mkdir()
    if not killed_at(number, [*arguments, "--output", str(parent)], parent):
        return False
    folders = [path for path in parent.glob("*-mini-cpu*") if (path / run_file.NAME).exists()]
    if not folders:
        assert launches(parent) == [], "without its plan a folder has no launch"
        return True
    (folder,) = folders
    recorded = {str(path.parent) for path in folder.rglob(records.FILE_NAME)}
    begun = len(launches(parent))
    assert go_on(arguments, parent, folder) == 0
    afterwards = launches(parent)[begun:]
    again = [name for name in afterwards if any(path.endswith(f"/{name}") for path in recorded)]
    assert again == [], f"measured again, killed at moment {number}"
    assert max(Counter(afterwards).values(), default=1) == 1
    assert not list(folder.rglob("weights.pt"))
    assert not list(folder.rglob("tokens.npy"))
    return True


def table(folder: Path, kind: str) -> Any:
    """The result of a command without its dates."""
    path = folder / kind
    if path.suffix == ".csv":
        return list(csv.reader(path.read_text().splitlines()))
    values = json.loads(path.read_bytes())
    return {name: value for name, value in values.items() if name != "date"}


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_a_run_killed_at_any_moment_ends_in_the_same_table(step: int, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    with scripted(whole):
        assert main([*RUN, "--output", str(whole)]) == 0
    for number in count(step=step):
        parent = tmp_path / str(number)
        if not check_killed(number, RUN, parent):
            break
        for folder in parent.glob("*-mini-cpu"):
            if (folder / "table.csv").exists():
                assert table(folder, "table.csv") == table(only_folder(whole), "table.csv")
    assert number >= 15, "every write and every launch is a moment"


@pytest.mark.parametrize("arguments", COMMANDS, ids=[command[0] for command in COMMANDS])
@pytest.mark.parametrize("number", [4, pytest.param(9, marks=pytest.mark.soak)])
def test_every_study_goes_on(arguments: list[str], number: int, tmp_path: Path) -> None:
    assert check_killed(number, arguments, tmp_path / "killed")


def stopped_run(parent: Path, moment: int = 10) -> Path:
    """The folder of a run that was killed after its first records."""
    assert killed_at(moment, [*RUN, "--output", str(parent)], parent)
    return only_folder(parent)


def test_a_finished_folder_prints_its_table_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(tmp_path):
        assert main([*RUN, "--output", str(tmp_path)]) == 0
    first, before = capsys.readouterr().out, launches(tmp_path)
    assert go_on(RUN, tmp_path, only_folder(tmp_path)) == 0
    assert capsys.readouterr().out == first
    assert launches(tmp_path) == before


def test_a_deleted_record_is_measured_again_and_its_grid_saved(tmp_path: Path) -> None:
    arguments = ["run", "mini-cpu", "--systems", "megatron", "--tune", "--no-wandb"]
    with scripted(tmp_path):
        assert main([*arguments, "--output", str(tmp_path)]) == 0
    (grid,) = (tmp_path / "published" / "tuning").iterdir()
    whole, before = grid.read_bytes(), len(launches(tmp_path))
    grid.write_bytes(b"a newer grid")
    folder = only_folder(tmp_path)
    assert go_on(arguments, tmp_path, folder) == 0
    assert grid.read_bytes() == b"a newer grid", "of a finished command"
    grid.unlink()
    (folder / "megatron-01-1" / records.FILE_NAME).unlink()
    assert go_on(arguments, tmp_path, folder) == 0
    assert launches(tmp_path)[before:] == [f"{folder.name}/megatron-01-1"]
    assert json.loads(grid.read_bytes())["systems"] == json.loads(whole)["systems"]


def refused(arguments: Sequence[str], parent: Path, folder: Path, capsys: Any) -> str:
    before = launches(parent)
    assert go_on(arguments, parent, folder) == 2
    assert launches(parent) == before
    error: str = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_another_command_is_refused_with_the_right_one(tmp_path: Path, capsys: Any) -> None:
    folder = stopped_run(tmp_path)
    right = shlex.join(["sppo-bench", *RUN[:-1], "--resume", str(folder)])
    for other in ([*RUN, "--launches", "2"], ["run", "tiny-cpu", *RUN[2:]], COMMANDS[0]):
        assert refused(other, tmp_path, folder, capsys).endswith(f"go on with: {right}")
    assert go_on([*RUN, "--json", "--time-limit", "777"], tmp_path, folder) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cpu_model": "another processor"}, "measured with cpu_model another processor"),
        ({"versions": {"torch": "1.0"}}, "restore that, or measure anew without --resume"),
        ({"variables": {"NCCL_ALGO": "Ring"}}, "measured with NCCL_ALGO Ring, here is none"),
    ],
)
def test_another_machine_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: Any
) -> None:
    folder = stopped_run(tmp_path)
    plan = run_file.read(folder)
    environment = {**plan.environment, **change}
    run_file.write(folder, replace_plan(plan, environment=environment))
    assert says in refused(RUN, tmp_path, folder, capsys)


def test_the_number_of_nodes_may_come_from_a_flag_or_a_launcher(
    tmp_path: Path, capsys: Any
) -> None:
    folder = stopped_run(tmp_path)
    plan = run_file.read(folder)
    cluster = replace(plan.workload.cluster, nodes=2, ranks_per_node=1)
    other = replace_plan(plan, workload=replace(plan.workload, cluster=cluster))
    run_file.write(folder, other)
    assert "measured on 2 nodes, here 1; give --nodes 2" in refused(RUN, tmp_path, folder, capsys)
    run_file.write(folder, replace_plan(plan, arguments=[*plan.arguments, "--nodes", "1"]))
    assert go_on(RUN, tmp_path, folder) == 0


def replace_plan(plan: run_file.RunFile, **changes: Any) -> run_file.RunFile:
    return msgspec.structs.replace(plan, **changes)


def test_another_commit_is_only_said_and_wandb_or_threads_are_not(
    tmp_path: Path, capsys: Any
) -> None:
    folder = stopped_run(tmp_path)
    plan = run_file.read(folder)
    versions = {**plan.environment["versions"], "wandb": "0.0.1"}
    variables = {**plan.environment["variables"], "OMP_NUM_THREADS": "7", "NCCL_DEBUG_FILE": "a"}
    environment = {**plan.environment, "versions": versions, "variables": variables}
    environment["commit"] = "b" * 40
    run_file.write(folder, replace_plan(plan, environment=environment))
    assert go_on(RUN, tmp_path, folder) == 0
    assert f"another commit than before: {'b' * 40}" in capsys.readouterr().err


def test_other_settings_or_weights_or_schema_are_refused(tmp_path: Path, capsys: Any) -> None:
    folder = stopped_run(tmp_path)
    plan = run_file.read(folder)
    run_file.write(folder, replace_plan(plan, rows={"SPPO": "{}"}))
    assert "SPPO has other settings than before" in refused(RUN, tmp_path, folder, capsys)
    run_file.write(folder, replace_plan(plan, schema="sppo-run/9"))
    assert "is newer than 'sppo-run/1'" in refused(RUN, tmp_path, folder, capsys)
    run_file.write(folder, plan)
    inputs = folder / "inputs.json"
    values = json.loads(inputs.read_bytes())
    inputs.write_text(json.dumps({**values, "weights_sha256": "0" * 64}))
    assert "weights.pt is not that of the earlier" in refused(RUN, tmp_path, folder, capsys)


def test_no_folder_and_output_are_refused(tmp_path: Path, capsys: Any) -> None:
    assert "name the folder of a stopped command" in refused(RUN, tmp_path, tmp_path, capsys)
    folder = stopped_run(tmp_path)
    assert "leave --output out" in refused([*RUN, "--output", "x"], tmp_path, folder, capsys)


def test_a_folder_in_which_a_command_measures_is_refused(tmp_path: Path, capsys: Any) -> None:
    folder = stopped_run(tmp_path)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert "a command measures there now" in refused(RUN, tmp_path, folder, capsys)
    finally:
        os.close(lock)
    assert go_on(RUN, tmp_path, folder) == 0


def test_a_mismatch_is_judged_anew_over_old_and_new_records(tmp_path: Path) -> None:
    folder = stopped_run(tmp_path, moment=15)
    (path,) = folder.glob(f"sppo-1/{records.FILE_NAME}")
    record = records.read(path)
    assert record.status == "ok"
    mismatch = as_mismatch(record, "an early verdict")
    assert before_gate(mismatch) == record
    records.write(mismatch, path)
    assert go_on(RUN, tmp_path, folder) == 0
    assert records.read(path) == record


@pytest.mark.parametrize("moment", ["launch", "before inputs.json"])
def test_an_interrupt_names_the_folder_and_a_command_that_goes_on(
    moment: str, tmp_path: Path, capsys: Any
) -> None:
    parent = tmp_path / "with a space"

    def interrupt(name: str) -> None:
        if name == moment and not interrupted:
            interrupted.append(name)
            raise KeyboardInterrupt

    interrupted: list[str] = []
    parent.mkdir()
    with scripted(parent, interrupt):
        assert main([*RUN, "--output", str(parent)]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "interrupted"
    if moment != "launch":
        assert len(lines) == 1
        assert list(parent.glob("*-mini-cpu*")) == [], "nothing measured, nothing left"
        return
    where, how = lines[-3:-1]
    assert where == f"records so far: {only_folder(parent)}"
    program, *arguments = shlex.split(how.removeprefix("go on with: "))
    assert program == "sppo-bench"
    with scripted(parent):
        assert main(arguments) == 0


def by_comma(command: Any) -> dict[str, Any]:
    """The flags; names that were given apart are those given by comma."""
    return {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in vars(command).items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "run tiny-cpu --systems megatron,sppo --device-memory 160MiB --launches 3 --tune",
        "run --text 'my corpus.txt' --time-limit 77.5 --json",
        "sweep mini-cpu --sequences-per-step 1,2 --systems sppo megatron --points 2 --publish",
        "longest tiny-cpu --at-most 64K --systems sppo",
        "limit mini-cpu",
        "ablation --policies auto paper",
        "emulate megatron --model gpt-7b --seq 1M --gpus 32 --tuned --longest --again",
        "emulate deepspeed tiny-cpu --tuned",
        "paper --models gpt-7b --figures 10 --stale",
    ],
)
def test_the_line_to_go_on_is_the_same_command(line: str) -> None:
    command: Any = parse(shlex.split(line))
    said = [name_of(command), *words(command, without=PLACE), "--resume", "a b"]
    same: Any = parse(shlex.split(shlex.join(said)))
    assert by_comma(same) == by_comma(replace(command, resume=Path("a b")))


def test_the_line_to_go_on_names_data_that_are_no_unicode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "caf\udce9.txt"
    Path(name).touch()
    said = words(parse(["run", "--data", name]), without=PLACE)
    assert said == ["--data", r"caf\xe9.txt"]
    assert openable(said[1]).exists()
    assert words(parse(["run", *said]), without=PLACE) == said

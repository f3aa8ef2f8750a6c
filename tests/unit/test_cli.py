from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks import environment
from benchmarks.cli import COMMANDS, main, parse
from benchmarks.commands.planning.emulate import Emulate
from benchmarks.records import record as records
from benchmarks.reporting import tables
from tests.unit.records_factory import record


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"Example: sppo-bench {command}" in capsys.readouterr().out


def test_the_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit codes: 0 every row ended in a result" in capsys.readouterr().out


def test_system_comes_before_workload() -> None:
    """Positional arguments come in the order of the dataclass's bases."""
    command = parse(["emulate", "megatron", "mini-cpu"])
    assert isinstance(command, Emulate)
    assert (command.system, command.workload) == ("megatron", "mini-cpu")


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    code = (
        "import sys; from benchmarks.cli import COMMANDS, parse; parse(['plan', 'mini-cpu']); "
        "modules = {'benchmarks.commands.' + place.split(':')[0] for place in COMMANDS.values()}; "
        "print(*(modules & sys.modules.keys()))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True
    )
    assert done.stdout.split() == ["benchmarks.commands.planning.plan"]


def test_a_hint_on_a_wrong_flag_names_the_commands_that_have_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "mini-cpu", "--policy", "lean"])
    captured = capsys.readouterr()
    assert captured.err.count("Unrecognized") == 2, "a title and a line, once"
    assert "in sppo-bench plan --help" in captured.err
    assert not captured.out


@pytest.mark.parametrize("wrong", ["--lunches", "--pp"])
def test_a_wrong_flag_is_wrong_input(wrong: str, folder: Path) -> None:
    """`run` takes the ranks of its workload, and no other number of stages."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "mini-cpu", wrong, "3"])
    assert ended.value.code == 2
    assert not list((folder / "results").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nope"], "unknown workload 'nope'; known: tiny-cpu"),
        (["plan", "mini-cpu", "--pp", "3"], "PP 3 does not fill 2 ranks"),
        (["simulate", "mini-cpu", "--pp", "3"], "PP 3 does not fill 2 ranks"),
        (["timeline", "mini-cpu", "--pp", "3"], "PP 3 does not fill 2 ranks"),
        (["plan", "nope"], "unknown workload 'nope'"),
        (["run", "mini-cpu", "--systems", "vllm"], "unknown system 'vllm'; known: deepspeed"),
        (["run", "mini-cpu", "--device-memory", "lots"], "write 160MiB, 79.15GiB or none"),
        (["run", "mini-cpu", "--launches", "0"], "launches must be at least 1"),
        (["run", "mini-cpu", "--time-limit", "-1"], "the time limit must be positive"),
        (["run", "mini-cpu", "--time-limit", "inf"], "--time-limit inf: the time limit must be"),
        (
            ["sweep", "mini-cpu", "--device-memory", "none", "--time-limit", "nan"],
            "--time-limit nan",
        ),
        (["ablation", "mini-cpu", "--time-limit", "1e308"], "at most 1e+07 s"),
        (["longest", "mini-cpu", "--time-limit", "inf"], "--time-limit inf"),
        (["emulate", "sppo", "mini-cpu", "--time-limit", "nan"], "--time-limit nan"),
        (["paper", "--time-limit", "inf"], "--time-limit inf"),
        (["run", "mini-cpu", "--output", "r\udce9s"], "'r\\udce9s' is not UTF-8"),
        (["plan", "caf\udce9"], "is not UTF-8"),
        (["paper", "--systems", "vllm"], "unknown system 'vllm'; known: deepspeed"),
        (["emulate", "megatron-tuned", "mini-cpu"], "megatron --tuned searches its grid"),
        (["emulate", "Megatron-same-layout", "mini-cpu"], "takes its system, megatron"),
        (
            ["run", "mini-cpu", "--tune", "--systems", "megatron-same-layout"],
            "these rows follow a plan",
        ),
        (["run", "gpt-7b-1m-32xa100"], "`sppo-bench run gpt-7b-1m-32xa100 --dry-run`"),
        (["run", "mini-cpu", "--text", "absent.txt"], "absent.txt"),
        (["run", "mini-cpu", "--measured-steps", "0"], "measured_steps must be at least 1"),
        (["table", "absent"], "no folder absent"),
        (["longest", "mini-cpu", "--device-memory", "none"], "give --device-memory SIZE"),
        (["longest", "mini-cpu", "--systems", "vllm"], "unknown system 'vllm'"),
        (["longest", "mini-cpu", "--time-limit", "0"], "the time limit must be positive"),
        (["sweep", "mini-cpu"], "give --device-memory SIZES or --sequences-per-step"),
        (["sweep", "mini-cpu", "--device-memory", "1MiB,lots"], "not a size: 'lots'"),
        (["sweep", "mini-cpu", "--sequences-per-step", "1,0"], "write counts as 1,2,4"),
        (
            ["sweep", "mini-cpu", "--sequences-per-step", "2", "--device-memory", "1MiB,2MiB"],
            "one quantity at a time",
        ),
        (["sweep", "mini-cpu", "--device-memory", "1MiB", "--points", "0"], "--points 0"),
        (["sweep", "mini-cpu", "--device-memory", "1MiB", "--systems", "x"], "unknown system 'x'"),
        (["ablation", "mini-cpu", "--policies", "auto,magic"], "unknown policy 'magic'; known"),
        (["ablation", "mini-cpu", "--launches", "0"], "launches must be at least 1"),
        (["ablation", "gpt-7b-1m-32xa100"], "needs 4 x 8 CUDA devices"),
        (["ablation", "--model", "gpt-7b"], "leave --model out: it goes with --simulate"),
        (["ablation", "--host-link", "3"], "leave --host-link out: it goes with --simulate"),
        (["ablation", "--simulate", "--launches", "1"], "leave --launches out: it is for launches"),
        (["ablation", "--simulate", "--publish"], "leave --publish out: it is for launches"),
        (["ablation", "--simulate", "nope"], "unknown workload 'nope'"),
        (["ablation", "--simulate", "--model", "gpt-7b"], "--seq, --gpus, --hardware missing"),
        (["ablation", "--simulate", "--host-link", "0"], "--host-link 0: it must be more than 0"),
        (["ablation", "--simulate", "--node-link", "nan"], "--node-link nan: it must be more"),
        (["emulate", "sppo", "mini-cpu", "--pp", "0"], "--pipeline-parallel 0: it must be at"),
        (["ablation", "--simulate", "--n", "0"], "--subsequences 0: it must be at least 1"),
        (["ablation", "--simulate", "--pp", "3"], "PP 3 does not fill 64 ranks"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_written(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_text_that_is_too_short_leaves_no_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "short.txt").write_text("too short")
    assert main(["run", "mini-cpu", "--systems", "sppo", "--text", "short.txt"]) == 2
    assert "short.txt" in capsys.readouterr().err
    assert list((folder / "results" / "runs").iterdir()) == []


def test_list_names_workloads_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "tiny-cpu" in out
    assert "Megatron in SPPO's layout (megatron-same-layout)" in out
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workloads"]["tiny-cpu"]["sequence_tokens"] == 4096


def test_dry_run_prints_torchrun_lines_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "mini-cpu", "--systems", "megatron-same-layout", "--dry-run"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(lines) == 3, "the reference and two launches"
    assert "are not settled: within --budget 420 s" in out
    assert "OMP_NUM_THREADS=1" in lines[1]
    assert (
        "-m benchmarks.launch.ranks.agent --standalone --nnodes 1 --local-addr 127.0.0.1"
        in lines[1]
    )
    assert "--nproc-per-node 2 -m benchmarks.worker.rank" in lines[1]
    assert lines[1].endswith("megatron-same-layout-1/job.json")
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_dry_run_of_several_nodes_prints_a_line_for_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["run", "gpt-7b-1m-32xa100", "--systems", "megatron-tuned", "--dry-run"]
    assert main([*arguments, "--launches", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("--nnodes 4") == 4
    assert "--node-rank 3" in out
    assert "--nproc-per-node 8" in out


def test_table_prints_from_records_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    records.write(record(), run / "sppo-1" / "record.json")
    assert main(["table", str(run)]) == 0
    assert capsys.readouterr().out.strip() == tables.text([record()]).strip()
    assert main(["table", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["step_seconds_median"] == 0.5


def test_a_table_with_a_failure_exits_1(folder: Path) -> None:
    records.write(record(status="failed", reason="x"), folder / "run" / "sppo-1" / "record.json")
    assert main(["table", str(folder / "run")]) == 1


def test_the_version_names_the_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for dirty, words in ((True, " with changes"), (False, "")):
        monkeypatch.setattr(environment, "git_state", lambda root, dirty=dirty: ("c" * 40, dirty))
        assert main(["--version"]) == 0
        told = f"sppo-bench {version('sppo-suite')}, commit ccccccccc{words}\n"
        assert capsys.readouterr().out == told


def test_env_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    assert "versions" in json.loads(capsys.readouterr().out)


def test_reading_verbs_do_not_import_torch() -> None:
    code = (
        "import sys; from benchmarks import cli; from benchmarks.records import store; "
        "from benchmarks.reporting import tables; from benchmarks.rows import assign, tuning; "
        "cli.main(['list']); cli.main(['plan', 'mini-cpu', '--n', '2']); "
        "cli.main(['simulate', '--pp', '2', '--n', '2', '--unit-costs']); "
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)

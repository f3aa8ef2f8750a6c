"""Workloads from files and flags: equal after a round trip, and one line on wrong input."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import workload_files, workloads
from benchmarks.cli import main
from benchmarks.commands.arguments import find_launched, with_data
from benchmarks.commands.machine import workload_words
from benchmarks.commands.measuring.run import Run
from benchmarks.workloads import WORKLOADS
from sppo.config.hardware import PROFILES
from sppo.config.models import MODELS
from sppo.config.workload import Cluster, Workload

TINY = WORKLOADS["tiny-cpu"]
OWN = replace(
    TINY,
    name="my-cpu",
    model=replace(MODELS["llama-tiny"], name="my-model", layers=3, rope_theta=123.5),
    sequence_tokens=1000,
    sequences_per_step=3,
    dtype="bfloat16",
    optimizer=replace(TINY.optimizer, learning_rate=1e-7, weight_decay=0.0),
    device_memory_bytes=None,
    sequence_parallel=2,
    pipeline_parallel=1,
    text='a folder/of "text"',
    data_field="body",
    tokenizer="tokenizer.json",
    seed=2**40,
)
FLAGS = ("--model", "gpt-tiny", "--seq", "2K", "--gpus", "2", "--hardware", "cpu-2core")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def file_of(workload: Workload, **changes: str) -> str:
    """Write my.toml, with texts replaced; its name."""
    text = workload_files.text(workload)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    Path("my.toml").write_text(text, encoding="utf-8")
    return "my.toml"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that refuses its input."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("workload", [*WORKLOADS.values(), OWN], ids=lambda each: each.name)
def test_a_written_file_gives_an_equal_workload(workload: Workload) -> None:
    assert workload_files.find(file_of(workload)) == workload


def test_list_shows_a_named_workload_as_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--show", "mini-cpu"]) == 0
    Path("my.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert workload_files.find("my.toml") == WORKLOADS["mini-cpu"]


def test_a_whole_file_has_every_field() -> None:
    """A field that is None is left out, and OWN has one such field: its device memory."""
    text = workload_files.text(OWN)
    parts = (OWN, OWN.model, OWN.cluster, OWN.optimizer)
    names = {field.name for part in parts for field in fields(part)}
    shown = {line.partition(" = ")[0].strip("[]") for line in text.splitlines()}
    assert names - shown == {"device_memory_bytes"}


def test_a_file_may_name_a_known_model_and_leave_defaults_out() -> None:
    Path("my.toml").write_text(
        'name = "short"\nmodel = "llama-8b"\nsequence_tokens = 131_072\ndtype = "bfloat16"\n'
        '[cluster]\nhardware = "a100-80g"\ndevice = "cuda"\nnodes = 4\nranks_per_node = 8\n'
    )
    cluster = Cluster(hardware="a100-80g", device="cuda", nodes=4, ranks_per_node=8)
    assert workload_files.find("my.toml") == Workload(
        name="short",
        model=MODELS["llama-8b"],
        cluster=cluster,
        sequence_tokens=131_072,
        dtype="bfloat16",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sequence_tokens", "sequnce_tokens", "unknown field `sequnce_tokens`"),
        ("layers = ", "layer = ", "`$.model`"),
        ("nodes = 1", "nodes = 0", "`$.cluster.nodes`"),
        ("nodes = 1", "nodes = 1_000_000", "2,000,000 ranks"),
        ("sequence_tokens = 1000", "sequence_tokens = 1", "`$.sequence_tokens`"),
        ("sequence_tokens = 1000", 'sequence_tokens = "1K"', "`$.sequence_tokens`"),
        ("sequence_tokens = 1000", f"sequence_tokens = {10**30}", "`$.sequence_tokens`"),
        ("sequences_per_step = 3", "sequences_per_step = true", "`$.sequences_per_step`"),
        ("learning_rate = 1e-07", "learning_rate = inf", "`$.optimizer.learning_rate`"),
        ("beta1 = 0.9\n", "beta1 = nan\n", "`$.optimizer.beta1`"),
        ("heads = 4\nkv", "heads = 3\nkv", "must split into 3 heads"),
        ('dtype = "bfloat16"', 'dtype = "int4"', "`$.dtype`"),
        ('hardware = "cpu-2core"', 'hardware = "abacus"', "no hardware profile 'abacus'"),
        ('device = "cpu"', 'device = "cuda"', "cpu-2core is a cpu"),
        ('"my-cpu"', '"../../escaped"', "a part of file names"),
        ('"my-cpu"', '"/tmp/escaped"', "a part of file names"),
        ('"my-cpu"', '"two\\nlines"', "a part of file names"),
        ('"my-cpu"', f'"{"x" * 300}"', "a part of file names"),
        ('"my-model"', '"my/model"', "a part of file names"),
        ('"my-cpu"', '"my-cpu-2-nodes"', "are those of --nodes"),
        ('"my-cpu"', '"my-cpu-4-sequences"', "are those of --nodes"),
        ('"my-cpu"', '"tiny-cpu"', "the workload tiny-cpu of the suite has other values of model"),
        ('"my-model"', '"gpt-tiny"', "the model gpt-tiny of the suite has other values of layers"),
        ("[optimizer]", "[optimizer", "no TOML"),
        ("[optimizer]", f"deep = {'[' * 5000}", "no TOML"),
    ],
)
def test_wrong_files_are_one_line_and_write_nothing(
    old: str, new: str, words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file_of(OWN, **{old: new})
    line = error_of(["run", "my.toml", "--output", "runs"], capsys)
    assert line.startswith("error: my.toml: ")
    assert words in line
    assert "`sppo-bench list --show tiny-cpu`" in line
    assert [path.name for path in folder.iterdir()] == ["my.toml"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.toml", "No such file"),
        ("./none", "No such file"),
        ("/dev/zero", "this is no file"),
        (".//", "this is no file"),
        ("mine", "unknown workload 'mine'; known: tiny-cpu"),
        ("mine", "a workload file that ends in .toml"),
    ],
)
def test_what_is_no_file_is_one_line(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in error_of(["plan", name], capsys)


def test_a_file_of_other_bytes_or_without_end_is_no_toml(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("my.toml").write_bytes(b'name = "\xff"')
    assert "my.toml: no TOML" in error_of(["plan", "my.toml"], capsys)
    Path("my.toml").write_bytes(b"#" * (workload_files.MOST_BYTES + 1))
    assert "no workload file" in error_of(["plan", "my.toml"], capsys)


def test_the_name_of_a_workload_wins_over_a_file() -> None:
    Path("tiny-cpu").write_text(workload_files.text(OWN))
    assert workload_files.find("tiny-cpu") == TINY


def test_a_file_may_change_limit_and_data_of_a_named_workload() -> None:
    changed = replace(TINY, device_memory_bytes=2**27, text="corpus.jsonl", data_field="body")
    assert workload_files.find(file_of(changed)) == changed


def test_data_of_a_file_stay_unless_flags_name_others() -> None:
    given = Run(workload=file_of(OWN))
    assert with_data(find_launched(given), given) == OWN
    other = replace(given, data="other.npy")
    workload = with_data(find_launched(other), other)
    assert (workload.text, workload.data_field, workload.tokenizer) == ("other.npy", None, None)


@pytest.mark.parametrize("verb", ["plan", "simulate", "run"])
def test_commands_take_a_file(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    mini = replace(WORKLOADS["mini-cpu"], name="my-mini")
    flags = ["--systems", "sppo", "--dry-run"] if verb == "run" else ["--json"]
    assert main([verb, file_of(mini), *flags]) == 0
    assert "my-mini" in capsys.readouterr().out


def test_run_takes_the_flags_of_plan(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(model="llama-8b", seq="128K", gpus=32, hardware="a100-80g")
    assert find_launched(run) == workloads.of_flags(
        model="llama-8b", seq="128K", gpus=32, hardware="a100-80g"
    )
    assert main(["run", *FLAGS, "--systems", "sppo", "--dry-run"]) == 0
    assert "gpt-tiny-2048-2xcpu/sppo-2/job.json" in capsys.readouterr().out
    assert "not both" in error_of(["run", "mini-cpu", *FLAGS], capsys)
    assert "--hardware missing" in error_of(["run", *FLAGS[:-2]], capsys)


def test_the_name_of_a_profile_cannot_reach_file_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = folder / "my profile\n#SBATCH --wrap=false.json"
    profile.write_bytes((PROFILES / "a100-80g.json").read_bytes())
    flags = ["--model", "gpt-7b", "--seq", "2M", "--gpus", "64", "--hardware", str(profile)]
    for verb in (["run", "--output", "runs"], ["slurm"]):
        assert "a part of file names" in error_of([*verb, *flags], capsys)
    assert list(folder.iterdir()) == [profile]


def test_other_sequences_a_step_have_a_name_of_their_own() -> None:
    """Measured grids go by the name; a grid of one sequence is none of four."""
    four = find_launched(Run(workload="mini-cpu", sequences_per_step=4))
    assert (four.name, four.sequences_per_step) == ("mini-cpu-4-sequences", 4)
    one = find_launched(Run(workload="mini-cpu", sequences_per_step=1))
    assert one == WORKLOADS["mini-cpu"]


def test_a_refused_machine_names_the_workload_as_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", "gpt-7b", "--seq", "2M", "--gpus", "64", "--hardware", "a100-80g"]
    assert f"`sppo-bench run {' '.join(flags)} --nodes 8`" in error_of(["run", *flags], capsys)
    assert workload_words(Run(workload="my file.toml")) == "'my file.toml'"

"""The batch script of a run or a study on several nodes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.nodes import script


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["slurm", *arguments]) == 0
    return capsys.readouterr().out


def checked(text: str, folder: Path) -> str:
    """The script, after bash and shellcheck have read it."""
    path = folder / "job.sbatch"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
    return text


def test_the_batch_script_is_right_for_bash_and_shellcheck(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = written(
        capsys,
        *("gpt-7b-1m-32xa100", "--nodes", "4", "--gpus-per-node", "8", "--time", "02:00:00"),
        *("--partition", "gpu", "--account", "me", "--systems", "sppo", "--data", "a 'b'.txt"),
        *("--output", "a 'b'"),
    )
    checked(text, tmp_path)
    for line in ("--nodes=4", "--gpus-per-node=8", "--time=02:00:00", "--partition=gpu"):
        assert f"\n#SBATCH {line}\n" in text
    run = text.splitlines()[-1]
    assert run.endswith("""--data 'a '"'"'b'"'"'.txt' --systems sppo --nodes 4 "${place[@]}\"""")
    assert "--kill-on-bad-exit=0 --wait=60" in text, "node 0 has time to say why it ends"


def test_a_script_of_cpus_asks_for_no_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    text = written(capsys, "mini-cpu", "--nodes", "2", "--systems", "sppo", "--launches", "1")
    assert "gpus" not in text
    assert "\n#SBATCH --time=00:" in text
    assert " run mini-cpu --launches 1 --systems sppo --nodes 2 " in text.splitlines()[-1]


STUDIES = [
    ["sweep", "--device-memory", "150MiB,none", "--points", "2"],
    ["longest", "--at-most", "1K"],
    ["limit"],
    ["ablation", "--policies", "auto"],
]


@pytest.mark.parametrize("study", STUDIES, ids=[study[0] for study in STUDIES])
def test_studies_have_scripts(
    study: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name, *flags = study
    text = written(capsys, name, "mini-cpu", *flags, "--nodes", "2", "--time", "30")
    line = checked(text, tmp_path).splitlines()[-1].split(f" {name} ")[1]
    rest = line.removesuffix(' "${place[@]}"').split()
    assert sorted(rest) == sorted(["mini-cpu", *flags, "--nodes", "2"])


@pytest.mark.parametrize("how", ["first", "requeued", "resumed"])
def test_a_requeued_job_goes_on_in_its_folder(
    how: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = tmp_path / "my runs"
    stopped = home / "slurm-7" / "20260101-000000-mini-cpu-2-nodes"
    flags = ["--resume", str(stopped)] if how == "resumed" else ["--output", str(home)]
    text = written(capsys, "limit", "mini-cpu", "--nodes", "2", "--time", "30", *flags)
    if how == "requeued":
        stopped.mkdir(parents=True)
        (stopped / "run.json").touch()
    lines = checked(text, tmp_path).splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("# The folder"))
    end = next(number for number, line in enumerate(lines) if line.startswith("# The same"))
    choice = "\n".join(["set -euo pipefail", *lines[begin:end], 'printf "%s|" "${place[@]}"'])
    done = subprocess.run(
        ["bash", "-c", choice],
        env={"SLURM_JOB_ID": "7"},
        check=True,
        capture_output=True,
        text=True,
    )
    words = ["--output", home / "slurm-7"] if how == "first" else ["--resume", stopped]
    assert done.stdout == "".join(f"{word}|" for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mini-cpu"], "give --nodes 2 or more"),
        (["gpt-7b-1m-32xa100", "--nodes", "1", "--time", "9"], "give --nodes 2 or more"),
        (["mini-cpu", "--nodes", "2", "--gpus-per-node", "1"], "leave --gpus-per-node out"),
        (["gpt-7b-1m-32xa100", "--nodes", "4", "--gpus-per-node", "4"], "has 8 ranks on each of 4"),
        (["gpt-7b-1m-32xa100", "--partition", "a b"], "give a name of SLURM"),
        (["gpt-7b-1m-32xa100", "--time", "soon"], "give SLURM's form"),
        (["limit", "mini-cpu"], "give --nodes 2 or more"),
        (["limit", "mini-cpu", "--nodes", "2"], "give --time: how many launches `limit` needs"),
        (["mini-cpu", "--nodes", "2", "--tune"], "give --time: how many launches `run` needs"),
        (["mini-cpu", "--nodes", "2", "--dry-run"], "leave --dry-run out"),
        (["mini-cpu", "--nodes", "2", "--node-rank", "0"], "leave --node-rank out: srun gives"),
        (["sweep", "mini-cpu", "--nodes", "2", "--time", "9"], "nothing to sweep"),
        (["ablation", "--nodes", "2", "--simulate"], "leave --simulate out"),
        (["limit", "mini-cpu", "--nodes", "2", "--resume", "a", "--output", "b"], "--output out"),
    ],
)
def test_a_wrong_script_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slurm", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(600, "00:10:00"), (86_400 + 7_200, "1-02:00:00"), (3_661, "01:01:01")]
)
def test_times_in_slurm_s_form(seconds: float, text: str) -> None:
    assert script.slurm_time(seconds) == text

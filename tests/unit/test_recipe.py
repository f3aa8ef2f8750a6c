"""The container's recipe and its commands in docs/nodes.md, as far as they can be checked here."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks.cli import main
from tests.unit import docs_text
from tests.unit.docs_text import CHECKOUT

PAGE = (CHECKOUT / "docs" / "nodes.md").read_text()
CHAPTER = PAGE[PAGE.index("## In a container") : PAGE.index("## From login to table")]
RECIPE = CHAPTER.split("```")[1].strip()
SECTIONS = ("files", "post", "environment", "test")
"""Those that a definition file of Apptainer may have, and this one has."""

COPIED = "/opt/sppo-suite"
COMMANDS = re.findall(r"sppo-bench [a-z][^`|>\n]*", re.sub(r"\\\n\s*", "", CHAPTER))


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def test_the_recipe_has_a_base_and_sections_that_apptainer_knows() -> None:
    parts = sections(RECIPE)
    header = dict(line.split(": ") for line in parts.pop("").split("\n") if line)
    assert header["Bootstrap"] == "docker"
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", header["From"]), "a base with its version"
    assert tuple(parts) == SECTIONS
    targets = [line.split()[1] for line in parts["files"].strip().splitlines()]
    assert targets == [COPIED, "/opt/pins.txt"]
    for target in targets:
        assert target in parts["post"]


@pytest.mark.parametrize("name", ["post", "environment", "test"])
def test_the_shell_reads_every_section(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("#!/bin/sh\n" + sections(RECIPE)[name])
    subprocess.run(["sh", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


def test_what_the_recipe_installs_is_in_the_project() -> None:
    extras = re.search(rf"'{COPIED}\[([\w,]+)\]'", RECIPE)
    assert extras is not None
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    (copied,) = re.findall(r"cp (\S+) ../image/pins.txt", CHAPTER)
    assert (CHECKOUT / copied).is_file()


def test_commands_inside_the_container_have_their_flags() -> None:
    assert [line for line in COMMANDS if docs_text.wrong_flags(f"    {line}")] == []
    assert [line for line in COMMANDS if docs_text.wrong_commands(f"    {line}")] == []
    assert {"env", "list", "run", "slurm"} <= {line.split()[1] for line in COMMANDS}
    assert docs_text.wrong_flags("    sppo-bench run tiny-cpu --nodez 4"), "the check works"


def test_the_batch_script_runs_in_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of sed on the script that the container prints."""
    (expression,) = re.findall(r"sed '([^']+)'", CHAPTER)
    (command,) = (line for line in COMMANDS if line.startswith("sppo-bench slurm"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/venv/bin/{name}")
    assert main([*command.split()[1:], "--time", "02:00:00"]) == 0
    written = capsys.readouterr().out
    script = subprocess.run(
        ["sed", expression], input=written, capture_output=True, text=True, check=True
    ).stdout
    last = (
        "    apptainer exec --nv sppo.sif /opt/venv/bin/sppo-bench run gpt-7b-1m-32xa100 --nodes 4 "
        '"${place[@]}"'
    )
    assert script.splitlines()[-1] == last
    path = tmp_path / "job.sbatch"
    path.write_text(script)
    subprocess.run(["bash", "-n", path], check=True)

"""The pages name what exists, in short sentences."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from baselines import protocol
from benchmarks import __main__ as program
from benchmarks import cli
from benchmarks.regression import exit_codes
from tests.unit import docs_text
from tests.unit.docs_text import CHECKOUT, PAGES

README = CHECKOUT / "README.md"
QUESTIONS = [page for page in PAGES if page != README]


def names_of(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(CHECKOUT)) for page in pages]


every_page = pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))


@every_page
def test_every_path_exists(page: Path) -> None:
    assert docs_text.wrong_paths(page.read_text(), page.parent) == []


@every_page
def test_every_command_exists(page: Path) -> None:
    assert docs_text.wrong_commands(page.read_text()) == []


@every_page
def test_every_flag_exists(page: Path) -> None:
    assert docs_text.wrong_flags(page.read_text()) == []


@every_page
def test_no_sentence_is_long(page: Path) -> None:
    (name,) = names_of([page])
    long = docs_text.long_sentences(page.read_text(), name)
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", QUESTIONS, ids=names_of(QUESTIONS))
def test_a_page_opens_with_its_question(page: Path) -> None:
    title, _, question, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert question.startswith("*")
    assert question.endswith("?*")


def test_the_index_has_every_page_and_command() -> None:
    index = (CHECKOUT / "docs" / "README.md").read_text()
    names = [page.name for page in (CHECKOUT / "docs").glob("*.md") if page.name != "README.md"]
    assert [name for name in names if f"]({name})" not in index] == []
    assert [name for name in cli.COMMANDS if f"`sppo-bench {name}`" not in index] == []


def test_the_page_of_exit_codes_has_every_command_and_code() -> None:
    text = (CHECKOUT / "docs" / "exit-codes.md").read_text()
    assert [name for name in cli.COMMANDS if f"`sppo-bench {name}" not in text] == []
    codes = {0, cli.FAILED, cli.WRONG_INPUT, cli.INTERRUPTED, program.BROKEN_PIPE}
    listed = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert {int(code) for code in listed} == codes | {exit_codes.UNDECIDED}


@pytest.mark.parametrize(
    "kind",
    [
        protocol.Adapter,
        protocol.System,
        protocol.Planner,
        protocol.Follower,
        protocol.Grouped,
        protocol.PartlyEmulated,
        protocol.Untried,
        protocol.Brief,
    ],
)
def test_the_page_of_adapters_has_every_member(kind: type) -> None:
    text = (CHECKOUT / "docs" / "adapters.md").read_text()
    members = {*vars(kind), *inspect.get_annotations(kind)}
    members = {name for name in members if not name.startswith("_")}
    assert members
    assert [name for name in members if not re.search(rf"`{name}[`(]", text)] == []


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    first_screen = next(number for number, line in enumerate(lines) if line.startswith("## "))
    assert (first_screen <= 45, len(lines) <= 130) == (True, True)


def test_the_citation_has_the_version_and_the_paper() -> None:
    citation = (CHECKOUT / "CITATION.cff").read_text()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert f"version: {project['version']}\n" in citation
    assert f"license: {project['license']}\n" in citation
    assert "2503.10377" in citation


@every_page
def test_no_instruction_has_an_old_name(page: Path) -> None:
    old = ("`RA`", "`SA`", "`RG`", "`SG`", "`LW`", "`BW`", "`GW`", "`CW`", "`AW`", "`Z`", "`T`")
    text = page.read_text()
    assert [name for name in old if name in text] == []


@pytest.mark.parametrize(
    "text",
    [
        "see `sppo/schedule/instruction.py`",
        "see [the page](docs/hardwares.md)",
        "see [the page](docs/hardware.md#what-the-field-means)",
        "see [below](#not-a-heading)",
        "records in `results/publish/WORKLOAD.json`",
    ],
)
def test_a_planted_path_is_found(text: str) -> None:
    assert docs_text.wrong_paths(text)


def test_right_paths_are_not_found() -> None:
    text = """# Where it is

    `sppo/schedule/instructions.py`, `results/runs/DIR`, `results/published/longest/WORKLOAD.json`,
    [hardware](docs/hardware.md), [here](#where-it-is), [elsewhere](https://example.org/docs/a.md)
    """
    assert docs_text.wrong_paths(text) == []


@pytest.mark.parametrize(
    "text", ["`sppo-bench plann tiny-cpu`", "    python -m benchmarks.regress"]
)
def test_a_planted_command_is_found(text: str) -> None:
    assert len(docs_text.wrong_commands(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`--device-memories`",
        "    sppo-bench plan tiny-cpu --tune",
        "    python -m benchmarks.docs --chek",
        "    python -m benchmarks plan tiny-cpu --zero 3",
    ],
)
def test_a_planted_flag_is_found(text: str) -> None:
    assert len(docs_text.wrong_flags(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "`--device-memory none`, `sppo-bench plan tiny-cpu --pp 2`",
        "    sppo-bench run tiny-cpu --tune   # not --zero",
        "    python -m benchmarks.docs --check",
        "    python -m torch.distributed.run --standalone",
    ],
)
def test_right_flags_are_not_found(text: str) -> None:
    assert docs_text.wrong_flags(text) == []


def test_a_long_sentence_is_told_with_file_and_line() -> None:
    long = "Short one. " + "word " * 20 + "\n" + "word " * 6 + "end."
    text = f"# Title\n\n| {'cell ' * 30} |\n\n    {'code ' * 30}\n\n{long}\n"
    (told,) = docs_text.long_sentences(text, "docs/page.md")
    assert told.startswith("docs/page.md:7: 27 words: word word")


def test_a_list_item_is_a_text_of_its_own() -> None:
    text = "- " + "word " * 20 + "\n- " + "word " * 20 + "\n"
    assert docs_text.long_sentences(text, "docs/page.md") == []

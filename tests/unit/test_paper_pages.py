"""The files of the paper's items, and the command that writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.commands.studies.paper import Paper
from benchmarks.paper.items import files, published, registry
from benchmarks.records import store
from tests.unit import docs_text
from tests.unit.test_figures import capture, check_words
from tests.unit.test_paper_items import made

DRAWN = ("fig2", "fig5", "fig10")
"""Items whose drawing is tested here: bars, lines and outcomes in words."""


@pytest.mark.parametrize("key", DRAWN)
def test_an_item_has_four_files_and_its_words_lie_free(key: str, tmp_path: Path) -> None:
    drawn = capture(lambda path: files.write_item(made(key), path), tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".png", ".svg"]
    assert (tmp_path / f"{key}.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / f"{key}.svg").read_bytes()[:1000]
    with (tmp_path / f"{key}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(made(key).points)
    assert {"label", "source", "settings"} <= rows[0].keys()
    check_words(drawn[f"{key}.png"])


@pytest.mark.parametrize("key", ["fig2", "fig6", "fig7", "fig8", "fig10", "fig12", "table2"])
def test_a_page_names_what_exists(key: str) -> None:
    page = files.item_page(made(key))
    assert docs_text.wrong_commands(page) == []
    assert docs_text.wrong_flags(page) == []
    assert f"![{made(key).title}]({key}.png)" in page
    assert f"[{key}.csv]({key}.csv)" in page


@pytest.mark.parametrize("key", ["fig2", "fig9", "fig12", "table2"])
def test_a_committed_page_is_what_the_code_gives(key: str) -> None:
    """Pages whose numbers no plan moves."""
    path = store.published_directory().parent / "paper" / "pages" / f"{key}.md"
    assert path.read_text() == files.item_page(made(key)), "run: sppo-bench paper --publish"


def test_an_item_without_its_committed_file_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "read", lambda *_: None)
    makers = {"fig9": registry.maker("fig9"), "fig12": registry.maker("fig12")}
    written = files.write_items(makers, tmp_path)
    assert [item.key for item in written.items] == ["fig9"]
    assert "--emulate --figures 12 --sequences-per-step 1 --publish" in written.not_made["fig12"]
    index = (tmp_path / files.INDEX).read_text()
    assert "## Not made" in index
    assert "(fig9.md)" in index
    assert not (tmp_path / "fig12.csv").exists()
    assert "not made" in files.index_text(written)


def test_every_item_has_a_maker() -> None:
    assert len(registry.ITEMS) == len(registry.FIGURES) + len(registry.TABLES) == 16
    for key in registry.ITEMS:
        assert callable(registry.maker(key))


def test_the_command_writes_the_chosen_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["paper", "--figures", "9", "--tables", "2", "--json", "--no-wandb"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["schema"] == files.SCHEMA
    assert [item["item"] for item in values["items"]] == ["fig9", "table2"]
    assert values["not_made"] == {}
    assert {path.stem for path in tmp_path.iterdir()} == {"fig9", "table2", "index"}


@pytest.mark.parametrize(
    ("flags", "emulates"),
    [
        ({}, False),
        ({"figures": ("10",), "output": Path("x"), "json": True, "publish": True}, False),
        ({"no_wandb": True}, False),
        ({"emulate": True}, True),
        ({"models": ("gpt-7b",)}, True),
        ({"systems": ("sppo",)}, True),
        ({"readings": ("best",)}, True),
        ({"sequences_per_step": 4}, True),
        ({"again": True}, True),
        ({"stale": True}, True),
        ({"resume": Path("x")}, True),
    ],
)
def test_flags_of_the_emulation_imply_it(flags: dict[str, Any], emulates: bool) -> None:
    assert Paper(**flags).emulates is emulates


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--figures", "3"], "unknown figure '3'; known: 1, 2, 4, 5"),
        (["--tables", "1"], "unknown table '1'; known: 2, 3, 4, beyond, map"),
        (["--emulate", "--tables", "3"], "leave --tables out"),
        (["--tables", "3", "--pp", "4"], "--pp and --n go together"),
        (["--tables", "3", "--pp", "0", "--n", "8"], "at least 1"),
        (["--figures", "9", "--pp", "4", "--n", "8"], "add --tables 3"),
        (["--figures", "9", "--publish"], "only all pages are published"),
    ],
)
def test_wrong_flags_are_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["paper", *arguments]) == 2
    shown = capsys.readouterr().err
    assert word in shown
    assert shown.count("\n") == 1


def test_a_further_pipeline_has_a_table_of_its_own() -> None:
    item = registry.maker("table3", (3, 5))()
    assert [table.heading for table in item.tables] == [
        "PP 4, N 8: ids and ranks",
        "PP 3, N 5: ids and ranks",
    ]
    assert any(point.place == "PP 3, N 5" for point in item.points)


def test_published_pages_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "published_directory", lambda: tmp_path / "results" / "published")
    folder = tmp_path / "pages"
    written = files.write_items({"fig9": registry.maker("fig9")}, folder)
    target = files.publish(folder, written)
    assert target == tmp_path / "results" / "paper" / "pages"
    left = {path.name for path in folder.iterdir()} - {path.name for path in target.iterdir()}
    assert left == {"fig9.svg"}


@pytest.mark.soak
def test_all_items_are_made(tmp_path: Path) -> None:
    """The whole command; every simulated step below the limit of the profile's kernels."""
    assert main(["paper", "--no-wandb", "--output", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.csv"))) == len(registry.ITEMS)
    for path in tmp_path.glob("*.csv"):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                assert row["label"], row
                assert float(row["kernel_limit_share"] or 0) <= 1, row

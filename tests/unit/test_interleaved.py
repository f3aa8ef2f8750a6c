"""Two trees in turns: the arithmetic, and what a run is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.regression.interleaved import Ratio, json_of, main, number_at, turns

SHOW = "import json, pace; print('hello'); print(json.dumps({'rows': [{'s': pace.SECONDS}]}))"


def make_tree(folder: Path, seconds: float) -> Path:
    folder.mkdir()
    (folder / "pace.py").write_text(f"SECONDS = {seconds}\n")
    return folder


def test_turns_favour_neither() -> None:
    assert "".join(turns(4)) == "ABBAABBA"


def test_ratios_are_of_b_over_a() -> None:
    ratio = Ratio(a=(2.0, 4.0, 3.0), b=(1.0, 2.0, 6.0))
    assert ratio.of_minima == 0.5
    assert ratio.of_medians == pytest.approx(2 / 3)
    assert ratio.quartiles == (0.5, 1.25)
    assert str(ratio).splitlines() == [
        "A: least 2, median 3",
        "B: least 1, median 2",
        "B / A: 0.5000 of minima, 0.6667 of medians, pairs 0.5000 to 1.2500 (quartiles of 3)",
    ]
    assert Ratio(a=(2.0,), b=(3.0,)).quartiles == (1.5, 1.5)


def test_a_number_is_found_by_its_path() -> None:
    value = {"rows": [{"step": 0.5}, {"step": 2}]}
    assert number_at(value, "rows.-1.step") == 2.0
    assert number_at(3, "") == 3.0
    for path, word in (("rows.0.stop", "there is step"), ("rows.7", "a list"), ("rows", "no num")):
        with pytest.raises(ValueError, match=word):
            number_at(value, path)
    assert json_of('{\n "a": 1\n}\n') == {"a": 1}
    assert json_of("step 1\n7.5\n") == 7.5
    with pytest.raises(ValueError, match="prints no JSON: 'nothing'"):
        json_of("nothing\n")


def test_two_trees_run_the_same_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = make_tree(tmp_path / "slow", 3.0), make_tree(tmp_path / "fast", 1.5)
    arguments = [str(slow), str(fast), "--pairs", "2"]
    assert main([*arguments, "--json-key", "rows.0.s", "--", "python", "-c", SHOW]) == 0
    shown = capsys.readouterr()
    assert "B / A: 0.5000 of minima, 0.5000 of medians" in shown.out
    assert [line[0] for line in shown.err.splitlines()] == ["A", "B", "B", "A"]
    opened = "open('pace.py').read()"
    assert main([*arguments, "--", "python", "-c", opened]) == 0
    assert "B / A: " in capsys.readouterr().out


def test_a_command_that_fails_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = make_tree(tmp_path / "tree", 1.0)
    assert main([str(tree), str(tree), "--", "python", "-c", "import nowhere"]) == 1
    assert "No module named 'nowhere'" in capsys.readouterr().err
    assert main([str(tree), str(tmp_path / "none")]) == 2
    assert "no folder" in capsys.readouterr().err

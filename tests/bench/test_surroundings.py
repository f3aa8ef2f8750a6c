"""Commands in odd surroundings: each surrounding with one command.

The whole matrix, and real launches: `python -m tests.soak.surroundings`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import surroundings
from tests.surroundings import ORDINARY, SURROUNDINGS, Ended

pytestmark = pytest.mark.slow

QUICK = ("list", "table", "env", "plan", "simulate", "version", "pins")
"""Commands of a fraction of a second."""

WRITING = {
    "full disk": "timeline",
    "disk filled by a figure": "timeline",
    "output below a file": "timeline",
    "output in proc": "timeline",
    "temporary folder below a file": "timeline",
    "output not UTF-8": "run",
    "COLUMNS 1": "help",
    "ascii output": "help",
    "C locale": "help",
    "home below a file": "timeline",
    "a notebook's figures": "timeline",
    "launcher's variables": "dry-run",
    "WANDB_MODE odd": "track",
    "WANDB_DIR below a file": "track",
}
"""Surroundings that harm some commands only, each with one of them."""

CELLS = [(WRITING.get(name, QUICK[i % len(QUICK)]), name) for i, name in enumerate(SURROUNDINGS)]
CELLS += [("track", "no home"), pytest.param("track", "full disk", marks=pytest.mark.soak)]
"""The process and the log of wandb are quiet there too."""


@cache
def ordinary(verb: str) -> Ended:
    with TemporaryDirectory() as folder:
        return surroundings.run(verb, ORDINARY, Path(folder))


@pytest.mark.parametrize(("verb", "name"), CELLS)
def test_a_command_keeps_to_its_word(verb: str, name: str, tmp_path: Path) -> None:
    ended = surroundings.run(verb, SURROUNDINGS[name], tmp_path)
    wrong = surroundings.faults(verb, ended, ordinary(verb), SURROUNDINGS[name])
    assert wrong + surroundings.damaged_records(tmp_path) == [], ended.errors

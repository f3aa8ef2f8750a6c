"""The rooms and the arrows between them."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
HEAVY = {"torch", "scipy", "matplotlib", "wandb"}


def test_arrows_point_one_way() -> None:
    """The import-linter contracts of pyproject.toml."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(CHECKOUT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("root", ["sppo", "baselines", "benchmarks"])
def test_rooms_are_small(root: str) -> None:
    """No folder of one file or one folder alone, and none of more than 14 files."""
    for folder in (CHECKOUT / root).rglob("*/"):
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        folders = list(folder.glob("*/__init__.py"))
        if folder.name != "__pycache__" and (folder / "__init__.py").exists():
            assert len(files) + len(folders) >= 2, folder
            assert len(files) <= 14, folder


def packages() -> list[str]:
    roots = ("sppo", "baselines", "benchmarks")
    files = (path for root in roots for path in (CHECKOUT / root).rglob("__init__.py"))
    return sorted(str(path.parent.relative_to(CHECKOUT)).replace("/", ".") for path in files)


@pytest.mark.parametrize("package", packages())
def test_a_package_says_its_purpose_and_its_public_names(package: str) -> None:
    """In the docstring of its `__init__`, or as imports that are listed in `__all__`."""
    module = importlib.import_module(package)
    purpose, _, names = (module.__doc__ or "").partition("Read first:")
    assert purpose.strip()
    listed = re.findall(r"`(\w[\w.]*)\.(\w+)`", names)
    assert listed or module.__all__
    for file, name in listed:
        assert hasattr(importlib.import_module(f"{package}.{file}"), name), f"{file}.{name}"


@pytest.mark.parametrize(
    "code",
    [
        "import sppo",
        "import sppo.planner.solve, sppo.planner.report.card, sppo.planner.report.reasons",
        "from sppo import Hardware, Infeasible, Layout, Op, plan_card, simulate_plan, solve",
        "from benchmarks.cli import main; main(['--help'])",
        "from benchmarks.cli import main; main(['paper', '--help'])",
        "from benchmarks.cli import main; main(['emulate', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    """By the package, by the planner, by the command line before it has a command."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', *({HEAVY} & sys.modules.keys())))\n"
        f"{code}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "loaded"


def test_the_walk_visits_every_file_once() -> None:
    """ARCHITECTURE.md follows tiny-cpu through the code by links."""
    text = (CHECKOUT / "ARCHITECTURE.md").read_text()
    walk = text[text.index("## A walk of") : text.index("**Emulation**")]
    steps = re.findall(r"^\| \d+ \|.*\]\((\S+\.py)\) \|$", walk, re.MULTILINE)
    assert len(steps) > 10
    assert len(steps) == len(set(steps))
    for name in steps:
        assert (CHECKOUT / name).is_file(), name

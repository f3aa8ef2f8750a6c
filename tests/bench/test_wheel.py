"""The wheel, installed into an environment of its own and used from a folder elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import pytest

from benchmarks.records.record import Record

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("sppo", "baselines", "benchmarks")
SOURCES = (*PACKAGES, "results", "pyproject.toml", "setup.py", "README.md", "LICENSE")
OLDEST_SETUPTOOLS = 77


def _obstacle() -> str | None:
    """Why no wheel can be built here without the network."""
    try:
        version("pip")
        installed = version("setuptools")
    except PackageNotFoundError as error:
        return f"{error.name} is not installed"
    if int(installed.split(".")[0]) < OLDEST_SETUPTOOLS:
        return f"setuptools {installed} is older than {OLDEST_SETUPTOOLS}"
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: in the checkout it would leave build/ behind, or take from an old one."""
    obstacle = _obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "runs", "cache", "*.egg-info")
    for name in SOURCES:
        path = CHECKOUT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=unwanted)
        else:
            shutil.copy(path, source)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    _run([sys.executable, "-m", "pip", "wheel", *options, str(source)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel and, behind it, the libraries of this one.

    A path in a .pth file brings the libraries, but not the editable install that lies beside them.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True, with_pip=False)
    python = str(folder / "bin" / "python")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)], folder)
    # Only now: pip would find an editable install there, and leave the wheel out.
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (_site_packages(folder) / "libraries.pth").write_text("\n".join(libraries))
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder to stand in, with packages of our names."""
    folder = tmp_path / "elsewhere"
    for name in PACKAGES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('a decoy')\n")
    return folder


def _site_packages(environment: Path) -> Path:
    base = {"base": str(environment), "platbase": str(environment)}
    return Path(sysconfig.get_path("purelib", "venv", base))


def _run(command: list[str], folder: Path) -> str:
    """Standard output of a command that stands in `folder` and knows of no checkout."""
    done = _ended(command, folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _ended(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "XDG_DATA_HOME": str(folder.parent / "data"),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_the_wheel_has_every_module_and_the_data_that_is_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(CHECKOUT))
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    results = {
        f"benchmarks/{path.relative_to(CHECKOUT)}"
        for folder in (
            "expected",
            "paper",
            "published/emulation",
            "published/limits",
            "published/tuning",
        )
        for path in (CHECKOUT / "results" / folder).glob("*.json")
    }
    profiles = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "sppo" / "config" / "hardware_profiles").glob("*.json")
    }
    assert {name for name in names if name.endswith(".json")} == results | profiles
    site = {
        str(path.relative_to(CHECKOUT))
        for folder in ("assets", "templates")
        for path in (CHECKOUT / "benchmarks" / "site" / folder).iterdir()
    }
    assert len(site) >= 6
    assert site <= names


def test_commands_that_plan_work_from_any_folder(installed: Path, elsewhere: Path) -> None:
    command = str(installed / "bin" / "sppo-bench")
    assert "mini-cpu" in _run([command, "list"], elsewhere)
    assert "Plan of tiny-cpu" in _run([command, "plan", "tiny-cpu"], elsewhere)
    assert "usage" in _run([command, "paper", "--help"], elsewhere)
    dry = _run([command, "run", "tiny-cpu", "--systems", "megatron", "--dry-run"], elsewhere)
    assert "from the committed grid of " in dry
    assert "(tuning/tiny-cpu-136MiB.json)" in dry
    assert f"PYTHONPATH={_site_packages(installed)}" in dry


def test_the_site_has_its_templates_and_scripts(installed: Path, elsewhere: Path) -> None:
    command = str(installed / "bin" / "sppo-bench")
    (elsewhere / "results").mkdir()
    _run([command, "site", "--results", "results", "--output", "site"], elsewhere)
    assert {path.name for path in (elsewhere / "site" / "assets").iterdir()} >= {
        "plotly.min.js",
        "site.css",
    }
    assert b"<h1>" in (elsewhere / "site" / "index.html").read_bytes()


def test_commands_that_read_committed_points_find_them(installed: Path, elsewhere: Path) -> None:
    command = str(installed / "bin" / "sppo-bench")
    described = ["--model", "gpt-7b", "--seq", "128K", "--gpus", "8", "--hardware", "a100-80g"]
    assert "offload" in _run([command, "ablation", "--simulate", *described], elsewhere)
    wrong = _ended([command, "paper", "--models", "mine"], elsewhere)
    assert wrong.stderr == "error: unknown model 'mine'; known: gpt-7b, gpt-13b, gpt-65b\n"


@pytest.mark.soak
def test_a_run_among_decoys_is_recorded_with_the_user(installed: Path, elsewhere: Path) -> None:
    short = ["--launches", "1", "--measured-steps", "2", "--no-wandb"]
    command = [str(installed / "bin" / "sppo-bench"), "run", "mini-cpu", "--systems", "sppo"]
    table = _run([*command, *short], elsewhere)
    assert "SPPO" in table
    runs = elsewhere.parent / "data" / "sppo-suite" / "results" / "runs"
    (path,) = runs.glob("*/sppo-1/record.json")
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    assert record.status == "ok", record.reason
    assert record.environment["commit"] is None
    assert sorted(entry.name for entry in elsewhere.iterdir()) == sorted(PACKAGES)

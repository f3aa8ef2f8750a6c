"""Every command in odd surroundings: what it must keep to, whatever the machine or the user does.

A cell is one command in one surrounding, in a process of its own, with a home, a temporary folder
and a current folder of its own. Launches are played (`tests/played_launches.py`), so a cell covers
all that a command does but the ranks.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.environment import CHECKOUT
from benchmarks.records import record as records
from tests.unit.records_factory import record

MOST_LINES = 3
"""Lines on standard error beyond those in ordinary surroundings."""

NOT_UTF8 = "r\udce9s"
"""A file name in Latin-1."""

DECOYS = {
    "decoys": ("sppo", "baselines", "benchmarks", "torch", "platform", "wandb"),
    "our decoys": ("sppo", "baselines", "benchmarks"),
}
"""Current folder -> packages in it that cannot be imported."""

RUN = ("run", "mini-cpu", "--systems", "sppo", "--launches", "1", "--output", "{output}")

VERBS: dict[str, tuple[str, ...]] = {
    "version": ("--version",),
    "help": ("--help",),
    "list": ("list",),
    "env": ("env", "--json"),
    "pins": ("env", "--constraints"),
    "table": ("table", "{home}/run"),
    "site": ("site", "--results", "{home}", "--output", "{output}"),
    "history": ("history", "add", "{home}/run", "--history", "{output}"),
    "plan": ("plan", "mini-cpu"),
    "simulate": ("simulate", "mini-cpu", "--json"),
    "timeline": ("timeline", "mini-cpu", "--output", "{output}"),
    "slurm": ("slurm", "mini-cpu", "--nodes", "2", "--time", "00:10:00"),
    "dry-run": ("run", "mini-cpu", "--systems", "sppo", "--dry-run"),
    "run": (*RUN, "--no-wandb"),
    "tracked run": RUN,
    "sweep": (
        *("sweep", "mini-cpu", "--device-memory", "none", "--systems", "sppo"),
        *("--launches", "1", "--output", "{output}", "--no-wandb"),
    ),
    "tracked sweep": (
        *("sweep", "mini-cpu", "--device-memory", "none", "--systems", "sppo"),
        *("--launches", "1", "--output", "{output}"),
    ),
    "track": ("track", "{home}/run"),
    "ablation": (
        *("ablation", "mini-cpu", "--policies", "auto", "--launches", "1", "--no-wandb"),
        *("--output", "{output}"),
    ),
    "longest": (
        *("longest", "mini-cpu", "--systems", "sppo", "--device-memory", "16MiB"),
        *("--at-most", "512", "--output", "{output}", "--no-wandb"),
    ),
    "limit": ("limit", "mini-cpu", "--output", "{output}", "--no-wandb"),
    "emulate": ("emulate", "sppo", "mini-cpu", "--again", "--output", "{output}"),
    "paper": (
        *("paper", "--models", "gpt-7b", "--systems", "deepspeed", "--figures", "10", "--again"),
        *("--readings", "paper", "--output", "{output}", "--no-wandb"),
    ),
    "profile": ("profile", "mine", "--output", "{output}.json"),
    "check": ("check", "--topics", "plans-unit-costs"),
    "compare": ("compare", "{home}/run", "{home}/run"),
    "simulated-ablation": (
        *("ablation", "--simulate", "--model", "gpt-7b", "--seq", "128K", "--gpus", "8"),
        *("--hardware", "a100-80g"),
    ),
}
"""Name -> arguments of a command that launches nothing, or plays its launches."""

WRITERS = frozenset(name for name, arguments in VERBS.items() if "{output}" in str(arguments))
"""Commands that write into {output}."""


@dataclass(frozen=True, kw_only=True)
class Surrounding:
    """What is odd. Only `environment` differs in most; an empty value there unsets nothing.

    streams: shell redirections. output: in place of the folder for results. stands_in: the current
    folder below the cell's. file_bytes: the largest file that can be written, a full disk.
    codes: the exit codes of the commands that it harms; None: it harms none.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    streams: str = ""
    output: str = ""
    stands_in: str = "here"
    file_bytes: int | None = None
    codes: tuple[int, ...] | None = None
    harms: Callable[[str], bool] = lambda verb: True


def _variables(**environment: str) -> Surrounding:
    return Surrounding(environment=environment)


def _wandb_variables(**environment: str) -> Surrounding:
    """Variables with which wandb refuses: a command goes on, but `track` has nothing else to do."""
    return Surrounding(environment=environment, codes=(1, 2), harms=lambda verb: verb == "track")


def _writes(verb: str) -> bool:
    return verb in WRITERS


_fills_disk = (WRITERS - {"history"} | {"track"}).__contains__  # a line of the history is short

_LAUNCHER = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "PET_NODE_RANK", "SLURM_JOB_ID"), "3"),
    **dict.fromkeys(("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PET_NPROC_PER_NODE"), "9"),
    **dict.fromkeys(("MASTER_ADDR", "PET_RDZV_ENDPOINT", "TORCHELASTIC_RUN_ID"), "no.invalid"),
    "PET_NNODES": "1:4",
}

SURROUNDINGS: dict[str, Surrounding] = {
    "closed stdout": Surrounding(streams=">&-"),
    "all streams closed": Surrounding(streams="<&- >&- 2>&-"),
    "full stdout": Surrounding(streams=">/dev/full", codes=(1, 2)),
    "full stderr": Surrounding(streams="2>/dev/full"),
    "reader gone": Surrounding(streams="| true", codes=(0, 1, 2, 141)),
    "full disk": Surrounding(file_bytes=2_000, codes=(1, 2), harms=_fills_disk),
    "disk filled by a figure": Surrounding(file_bytes=20_000, codes=(0, 1, 2), harms=_writes),
    "output below a file": Surrounding(output="/dev/null/x", codes=(2,), harms=_writes),
    "output in proc": Surrounding(output="/proc/x", codes=(2,), harms=_writes),
    "output not UTF-8": Surrounding(output=NOT_UTF8, codes=(2,), harms=_writes),
    # Their results would lie there; other commands get a folder for results, or write none.
    "current folder not UTF-8": Surrounding(
        stands_in=NOT_UTF8, codes=(2,), harms=lambda verb: verb in ("slurm", "dry-run")
    ),
    "current folder removed": Surrounding(stands_in="removed", codes=(0, 1, 2)),
    "decoys": Surrounding(stands_in="decoys"),
    "decoys by an empty entry": Surrounding(
        stands_in="our decoys", environment={"PYTHONPATH": f"{CHECKOUT}{os.pathsep}"}
    ),
    "home below a file": _variables(HOME="/dev/null/home", XDG_CACHE_HOME="/dev/null/cache"),
    "no home": Surrounding(unset=("HOME",)),
    "no data home": _variables(XDG_DATA_HOME="/dev/null/data", XDG_CONFIG_HOME="/dev/null/config"),
    "temporary folder below a file": _variables(TMPDIR="/dev/null/tmp"),
    "no temporary folder": Surrounding(unset=("TMPDIR",)),
    "C locale": _variables(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"),
    "unknown locale": _variables(LC_ALL="xx_YY.KOI8-R", LANG="xx_YY"),
    "ascii output": _variables(PYTHONIOENCODING="ascii"),
    "Latin-1 output": _variables(PYTHONIOENCODING="latin-1:strict"),
    "COLUMNS 1": _variables(COLUMNS="1"),
    "COLUMNS 0": _variables(COLUMNS="0", LINES="0"),
    "COLUMNS no number": _variables(COLUMNS="wide"),
    "COLUMNS without end": _variables(COLUMNS="999999999"),
    "a notebook's figures": _variables(MPLBACKEND="no_such_backend"),
    "dumb terminal": _variables(TERM="dumb", FORCE_COLOR="1"),
    "WANDB_MODE empty": _variables(WANDB_MODE="", WANDB_DIR="", WANDB_PROJECT=""),
    "WANDB_MODE odd": _wandb_variables(WANDB_MODE="Offline"),
    "WANDB_BASE_URL odd": _wandb_variables(WANDB_BASE_URL="localhost:8080"),
    "WANDB_RUN_ID": _variables(WANDB_RUN_ID="abc123", WANDB_RESUME="must"),
    "WANDB_DIR below a file": _wandb_variables(WANDB_DIR="/dev/null/wandb"),
    "WANDB_PROJECT not UTF-8": _wandb_variables(WANDB_PROJECT=NOT_UTF8),
    "WANDB_INIT_TIMEOUT odd": _wandb_variables(WANDB_INIT_TIMEOUT="soon"),
    "WANDB_MODE disabled": _wandb_variables(WANDB_MODE="disabled"),
    "launcher's variables": Surrounding(environment=_LAUNCHER),
}


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a cell. faults: what it did not keep to, in words."""

    code: int
    output: str
    errors: str
    faults: tuple[str, ...] = ()


ORDINARY = Surrounding()


def run(verb: str, surrounding: Surrounding, folder: Path) -> Ended:
    """One command in one surrounding. `folder`: new and empty."""
    for name in ("home/run", "tmp", "here/results", f"{NOT_UTF8}/results"):
        (folder / name).mkdir(parents=True)
    for place, packages in DECOYS.items():
        for name in packages:
            (folder / place / name).mkdir(parents=True)
            (folder / place / name / "__init__.py").write_text("raise ImportError('a decoy')\n")
    records.write(record(), folder / "home" / "run" / "sppo-1" / records.FILE_NAME)
    mark = uuid.uuid4().hex
    environment = {
        **os.environ,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(CHECKOUT),
        "MPLCONFIGDIR": "",
        # Python 3.11 keeps a half-written .pyc of a full disk, and breaks on it for ever.
        "PYTHONDONTWRITEBYTECODE": "1",
        "SURROUNDINGS_CELL": mark,
        **surrounding.environment,
    }
    if "HOME" not in surrounding.environment and "HOME" not in surrounding.unset:
        environment.pop("MPLCONFIGDIR")
    for name in surrounding.unset:
        environment.pop(name, None)
    output = surrounding.output or str(folder / "out")
    names = {"{output}": output, "{home}": str(folder / "home")}
    arguments = [_filled(argument, names) for argument in VERBS[verb]]
    script = f'cd "$1" && {_removal(surrounding)}shift && exec "$@" {surrounding.streams}'
    if "|" in surrounding.streams:
        script = f"set -o pipefail; {script.replace('exec ', '')}"
    command = [sys.executable, "-P", "-m", "tests.played_launches", *arguments]
    if surrounding.stands_in == "removed":
        (folder / "removed").mkdir()
    with subprocess.Popen(
        ["bash", "-c", script, "bash", str(folder / surrounding.stands_in), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_file_limit(surrounding.file_bytes),
    ) as process:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            left = _processes(mark)
            for member in left:
                member.kill()
    faults = [f"process left: {member.pid}" for member in left]
    faults += _leftovers(folder, surrounding)
    return Ended(
        code=process.returncode,
        output=out.decode("utf-8", "replace"),
        errors=err.decode("utf-8", "replace"),
        faults=tuple(faults),
    )


def _removal(surrounding: Surrounding) -> str:
    return 'rmdir "$1" && ' if surrounding.stands_in == "removed" else ""


def _filled(argument: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        argument = argument.replace(name, value)
    return argument


def _file_limit(size_bytes: int | None) -> Callable[[], None]:
    def limit() -> None:
        if size_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))

    return limit


def _processes(mark: str) -> list[psutil.Process]:
    """Processes of the cell that still run."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SURROUNDINGS_CELL") == mark:
                left.append(process)  # a zombie has no environment
        except psutil.Error:
            continue
    return left


def _leftovers(folder: Path, surrounding: Surrounding) -> list[str]:
    """Temporary files, and anything but results in the current folder."""
    here = folder / surrounding.stands_in
    paths = [*(folder / "tmp").iterdir(), *folder.rglob(".*.[0-9]*")]
    if here.is_dir():
        expected = {"results", *DECOYS.get(surrounding.stands_in, ())}
        paths += [path for path in here.iterdir() if path.name not in expected]
    return [f"left behind: {str(path)!r}" for path in paths]


def faults(verb: str, ended: Ended, ordinary: Ended, surrounding: Surrounding) -> list[str]:
    """What the cell did not keep to, measured by the same command in ordinary surroundings."""
    codes = {ordinary.code}
    if surrounding.codes is not None and surrounding.harms(verb):
        codes = set(surrounding.codes) | (codes - {0})  # a verdict stands
    wrong = list(ended.faults)
    if ended.code not in codes:
        wrong.append(f"exit code {ended.code}, not of {sorted(codes)}")
    if "Traceback" in ended.errors + ended.output:
        wrong.append("traceback")
    lines = len(ended.errors.splitlines()) - len(ordinary.errors.splitlines())
    if lines > MOST_LINES:
        wrong.append(f"{lines} more lines on standard error")
    if ended.code == 2 and "2>" not in surrounding.streams and not ended.errors.strip():
        wrong.append("no word of the cause")
    return wrong


def damaged_records(folder: Path) -> list[str]:
    """Records below the folder that cannot be read."""
    damaged = []
    for path in folder.rglob(records.FILE_NAME):
        try:
            records.read(path)
        except records.RecordError as error:
            damaged.append(str(error))
    return damaged

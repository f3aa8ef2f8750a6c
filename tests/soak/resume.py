"""Does every command go on after kill -9 at a random moment? Real launches, real emulations.

    python -m tests.soak.resume --rounds 3 --output results/published/proofs/NAME.json

A round runs a command once to its end, then kills a second run of it again and again, at random
moments, and resumes it. Records on disk at a kill must stay as they are, byte for byte, and the
launches at the end must be those of the whole run. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import describe_environment
from benchmarks.launch import run_file
from benchmarks.records import store

STEPS = ["--measured-steps", "2", "--warmup-steps", "0", "--budget", "0"]
"""Further launches of noisy rows would make each run another."""

STUDY = ("mini-cpu", "--no-wandb")

COMMANDS: dict[str, list[str]] = {
    "run": ["run", "mini-cpu", "--systems", "sppo,megatron-same-layout", *STEPS, "--no-wandb"],
    "tune": ["run", "mini-cpu", "--systems", "deepspeed", "--tune", *STEPS, "--no-wandb"],
    "sweep": ["sweep", *STUDY, "--systems", "sppo", "--sequences-per-step", "1,2", *STEPS],
    "longest": ["longest", *STUDY, "--systems", "sppo", "--at-most", "2K"],
    "limit": ["limit", *STUDY],
    "ablation": ["ablation", *STUDY, "--policies", "auto,paper", *STEPS],
    "emulate": ["emulate", "megatron", *STUDY, "--tuned", "--again"],
    "paper": [
        "paper",
        "--no-wandb",
        "--models",
        "gpt-7b",
        "--systems",
        "deepspeed",
        "--figures",
        "10",
        "--again",
    ],
}

PROGRAM = """
import sys
from pathlib import Path
from benchmarks.cli import main
from benchmarks.records import store
if sys.argv[1] not in ("emulate", "paper"):
    store.published_directory = lambda: Path.cwd() / "results" / "published"
sys.exit(main(sys.argv[1:]))
"""
"""sppo-bench, which publishes into its current folder and not into the checkout."""

ENDED = ("record.json", "emulation.json")
"""The files that mark the end of a launch or an emulation."""


def start(arguments: Sequence[str], home: Path) -> subprocess.Popen[bytes]:
    """The command with results in a folder of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=(home / "errors.txt").open("ab"),
        start_new_session=True,
    )


def folder_of(home: Path) -> Path | None:
    """The command's folder, once it states its plan."""
    plans = sorted((home / "results" / "runs").glob(f"*/{run_file.NAME}"))
    return plans[0].parent if plans else None


def ended(folder: Path) -> dict[str, bytes]:
    """The contents of all ended launches and emulations, by path."""
    paths = (path for name in ENDED for path in folder.rglob(name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def new_home(parent: Path, name: str) -> Path:
    """A current folder with `results/`, which gets runs, cache and published results."""
    home = parent / name
    (home / "results").mkdir(parents=True)
    return home


def one_round(verb: str, parent: Path, chance: random.Random) -> dict[str, Any]:
    """Kill and resume until the command ends; what was seen."""
    arguments = COMMANDS[verb]
    home = new_home(parent, "whole")
    began = time.monotonic()
    code = start(arguments, home).wait()
    whole_seconds = time.monotonic() - began
    whole = folder_of(home)
    assert whole is not None
    expected = len(ended(whole))

    home = new_home(parent, "killed")
    kills, changed, folder = 0, [], None
    kept: dict[str, bytes] = {}
    while True:
        resume = ["--resume", str(folder)] if folder else []
        process = start([*arguments, *resume], home)
        try:
            # The third run and later ones are killed ever later, so that there is an end.
            resumed_code = process.wait(chance.uniform(0.1, 0.5) * whole_seconds * (1 + kills / 2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            break
        folder = folder_of(home)
        if folder is None:
            continue
        now = ended(folder)
        changed += [path for path, content in kept.items() if now.get(path) != content]
        kept = {**kept, **now}
    folder = folder_of(home)
    assert folder is not None
    last = ended(folder)
    changed += [path for path, content in kept.items() if last.get(path) != content]
    left = [path.name for name in ("weights.pt", "tokens.npy") for path in folder.rglob(name)]
    return {
        "command": " ".join(arguments),
        "kills": kills,
        "exit_codes": [code, resumed_code],
        "ended": [expected, len(last)],
        "kept_at_kills": len(kept),
        "changed": sorted(set(changed)),
        "left": left,
        "whole_seconds": round(whole_seconds, 1),
    }


def is_right(seen: dict[str, Any]) -> bool:
    """Whether nothing was lost, changed or left."""
    first, resumed = seen["exit_codes"]
    whole, last = seen["ended"]
    return first == resumed and whole == last and not seen["changed"] and not seen["left"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verbs", default=",".join(COMMANDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    rounds: list[dict[str, Any]] = []
    for verb in asked.verbs.split(","):
        for _ in range(asked.rounds):
            with tempfile.TemporaryDirectory() as parent:
                rounds.append(one_round(verb, Path(parent), chance))
            print(rounds[-1], flush=True)
            if asked.output:
                write(asked.output, rounds)
    right = sum(is_right(seen) for seen in rounds)
    print(f"{right} of {len(rounds)} rounds right, {sum(seen['kills'] for seen in rounds)} kills")
    return int(right < len(rounds))


def write(path: Path, rounds: Sequence[dict[str, Any]]) -> None:
    """The proof so far."""
    report = {
        "schema": "sppo-proof/1",
        "what": "commands killed with SIGKILL at random moments and resumed",
        "label": "measured",
        "load_average_5_minutes": round(os.getloadavg()[1], 1),
        "environment": describe_environment(),
        "rounds": rounds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(path, store.to_json(report))


if __name__ == "__main__":
    sys.exit(main())

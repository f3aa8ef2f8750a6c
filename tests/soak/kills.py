"""Is the rank that dies named, whatever follows from its death? Random kills on a busy machine.

    python -m tests.soak.kills --kills 50 --output results/published/proofs/kills-COMMIT.txt

Rank, moment, signal and world are drawn. Exits 1 if a rank was blamed that did not die first, if a
record of another launch changed, or if a process was left.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import psutil

from baselines import registry
from baselines.deepspeed.settings import DeepSpeedSettings
from baselines.sppo import SppoSettings
from benchmarks import workloads
from benchmarks.environment import describe_environment
from benchmarks.launch import preparing, run
from benchmarks.launch.progress import Lines
from benchmarks.launch.ranks import processes
from benchmarks.launch.recording import Inputs
from benchmarks.records import record as records
from benchmarks.records.record import Record
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Configuration, Row
from sppo.config.workload import Workload
from tests.soak.device_limits import load
from tests.soak.killed_worker import EXIT_CODE, PLANTED

KINDS = ("SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "exit", "error")
PHASES = ("set-up", "prepare", "throw-away", "accounted", "warm-up", "measured")
LONGEST_SECONDS = 0.3
"""The longest time from the beginning of a phase to a kill."""

OPTIONS = run.Options(launches=1, warmup_steps=1, measured_steps=60, time_limit_seconds=240)
"""More steps than are run before the latest kill."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Ranks of a real system. share: how often the world is drawn, relative to the others."""

    name: str
    workload: Workload
    system: str
    settings: SppoSettings | DeepSpeedSettings
    share: int

    @property
    def configuration(self) -> Configuration:
        """The row of the world."""
        row = Row(label=self.name, system=self.system, choosing="tuned")
        return with_settings(row, registry.load(self.system), self.settings, grid="")


MINI = replace(workloads.find("mini-cpu"), device_memory_bytes=None)
FOUR = replace(
    workloads.find("tiny-cpu-4rank"), name="mini-cpu-4rank", model=MINI.model, sequence_tokens=512
)
SPPO = SppoSettings(subsequences=4, virtual_stages=1, msp=False, policy="no-offload")
WORLDS = {
    world.name: world
    for world in (
        World(name="PP 2", workload=MINI, system="sppo", settings=SPPO, share=4),
        World(name="PP 2 x SP 2", workload=FOUR, system="sppo", settings=SPPO, share=2),
        World(
            name="SP 2",
            workload=MINI,
            system="deepspeed",
            settings=DeepSpeedSettings(sequence_parallel=2),
            share=3,
        ),
        World(
            name="DP 2",
            workload=replace(MINI, sequences_per_step=2),
            system="deepspeed",
            settings=DeepSpeedSettings(sequence_parallel=1, zero_stage=2),
            share=3,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Who ends, how and when: `seconds` after its rank has entered the phase."""

    world: str
    rank: int
    kind: str
    phase: str
    seconds: float

    @property
    def variable(self) -> str:
        """The variable KILL of `tests.soak.killed_worker`."""
        return f"{self.rank} {self.kind} {self.phase} {self.seconds:.3f}"

    def is_blamed(self, record: Record) -> bool:
        """Whether the record names this rank and this kind of end."""
        reason = record.reason
        if record.status != "failed":
            return False
        if self.kind == "error":
            return reason.startswith(f"rank {self.rank}") and PLANTED in reason
        how = f"exit code {EXIT_CODE}" if self.kind == "exit" else self.kind
        return reason.startswith(f"rank {self.rank} died ({how})")


def draw(generator: random.Random) -> Kill:
    """A kill; all kinds, phases and ranks are equally likely."""
    worlds = list(WORLDS.values())
    (world,) = generator.choices(worlds, [world.share for world in worlds])
    return Kill(
        world=world.name,
        rank=generator.randrange(world.workload.cluster.ranks),
        kind=generator.choice(KINDS),
        phase=generator.choice(PHASES),
        seconds=generator.uniform(0, LONGEST_SECONDS),
    )


@contextmanager
def worker(kill: Kill | None) -> Iterator[None]:
    """Launches run `tests.soak.killed_worker`, with this kill or with none."""
    command = processes.command
    script = str(Path(__file__).with_name("killed_worker.py"))

    def killed(*arguments: object) -> list[str]:
        line = command(*arguments)  # type: ignore[arg-type]
        return [*line[:-3], script, line[-1]]

    variable = {"KILL": kill.variable} if kill else {}
    with patch.object(processes, "command", killed), patch.dict("os.environ", variable):
        yield


def left(folder: Path) -> list[int]:
    """Ranks that still run; a zombie has ended."""
    still = []
    for path in folder.rglob("pid-*"):
        try:
            process = psutil.Process(int(path.read_text()))
            if process.status() != psutil.STATUS_ZOMBIE and "killed_worker" in " ".join(
                process.cmdline()
            ):
                still.append(process.pid)
        except (psutil.Error, ValueError):
            continue
    return still


def digests(folder: Path) -> dict[Path, str]:
    """SHA-256 of every record."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob(records.FILE_NAME)
    }


class Soak:
    """Launches of all worlds in one folder each, with what was wrong with each launch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launches: dict[str, int] = {}
        self.inputs: dict[str, Inputs] = {}
        self.done: list[Record] = []

    def launch(self, name: str, kill: Kill | None) -> tuple[Record, list[str]]:
        """One launch of a world: its record, and its faults."""
        world, before = WORLDS[name], digests(self.folder)
        if name not in self.inputs:
            directory = run.new_directory(self.folder, world.workload.name)
            self.inputs[name] = preparing.prepare(world.workload, OPTIONS, directory)
        self.launches[name] = self.launches.get(name, 0) + 1
        options = OPTIONS if kill else replace(OPTIONS, measured_steps=2)
        with worker(kill):
            record = run.launch_row(
                self.inputs[name], world.configuration, self.launches[name], options, Lines()
            )
        self.done.append(record)
        faults = []
        if kill is None and record.status != "ok":
            faults.append("an undisturbed launch is not ok")
        if kill is not None and not kill.is_blamed(record):
            faults.append("WRONG BLAME")
        after = digests(self.folder)
        if any(after.get(path) != digest for path, digest in before.items()):
            faults.append("another record has changed")
        if left(self.folder):
            faults.append("a process is left")
        return record, faults

    def unread(self) -> int:
        """Records that cannot be read back as they were written; inputs are removed."""
        for inputs in self.inputs.values():
            preparing.remove_inputs(inputs)
        directories = [inputs.directory for inputs in self.inputs.values()]
        on_disk = [record for directory in directories for record in records.read_all(directory)]
        return sum(record not in on_disk for record in self.done)


def soak(kills: Sequence[Kill], folder: Path, say: Report) -> int:
    """The kills, then an undisturbed launch of every world; the number of faults."""
    faulty = right = undisturbed = 0
    proof = Soak(folder)
    for number, kill in enumerate(kills, 1):
        start = time.monotonic()
        record, faults = proof.launch(kill.world, kill)
        right += kill.is_blamed(record)
        faulty += bool(faults)
        seconds = time.monotonic() - start
        words = "; ".join(faults) or "right"
        say(f"{number:3} {kill.world:12} {kill.variable:34} {seconds:5.1f} s  {words}")
        say(f"    {record.reason}")
    for name in dict.fromkeys(kill.world for kill in kills):
        record, faults = proof.launch(name, None)
        undisturbed += record.status == "ok"
        faulty += bool(faults)
        say(f"    {name:12} undisturbed: {record.status} {record.reason}{'; '.join(faults)}")
    unread = proof.unread()
    say(
        f"{right} of {len(kills)} blames right; {undisturbed} undisturbed launches ok; "
        f"{len(proof.done) - unread} of {len(proof.done)} records intact; {faulty} faults"
    )
    return faulty + unread


class Report:
    """Lines of the proof, printed, and kept in a file if one is named."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)
        if self.path is not None:
            self.path.write_text("\n".join(self.lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--load", type=int, default=2, metavar="PROCESSES")
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--output", type=Path, metavar="FILE")
    asked = parser.parse_args()
    say = Report(asked.output)
    environment = describe_environment()
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    say(f"{asked.kills} random kills beside {asked.load} busy processes, seed {asked.seed}")
    say(f"measured: commit {environment['commit']}, with changes: {environment['dirty']}")
    say(f"{environment['cores']} x {environment['cpu_model']}; {versions}")
    say("number, world, kill (rank, kind, phase, seconds into the phase), seconds of the launch")
    say("")
    generator = random.Random(asked.seed)
    kills = [draw(generator) for _ in range(asked.kills)]
    with ExitStack() as stack:
        stack.enter_context(load(asked.load))
        return int(soak(kills, Path(stack.enter_context(tempfile.TemporaryDirectory())), say) > 0)


if __name__ == "__main__":
    sys.exit(main())

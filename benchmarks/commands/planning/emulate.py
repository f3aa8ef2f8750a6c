"""`sppo-bench emulate`: check the flags, emulate every role, and show the verdict."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from baselines.protocol import Misfit, Role
from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError, usage_errors
from benchmarks.commands.flags import Described, RunFolder, Tracked
from benchmarks.commands.output import show
from benchmarks.commands.planning.emulate_settings import (
    SystemSettings,
    check_budget,
    check_tuned,
    settings_of,
    system_named,
)
from benchmarks.commands.run_folder import run_folder
from benchmarks.commands.tracked import tracked
from sppo.config.workload import Workload

if TYPE_CHECKING:
    from benchmarks.emulation.emulator import Emulator
    from benchmarks.emulation.result import Emulation

HARDWARE = "a100-80g"
"""The paper's GPU: the default of a workload by flags."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A system by name. The last base of Emulate: SYSTEM comes before WORKLOAD."""

    system: Annotated[Positional[str], arg(metavar="SYSTEM")]
    """megatron, megatron-ours, deepspeed, deepspeed-ours, native or sppo."""


@dataclass(frozen=True, kw_only=True)
class Emulate(RunFolder, Tracked, SystemSettings, Described, System):
    """Run one whole step of a system at full size on tensors without contents, and count it.

    The system's own code runs in one process per role: a stage, or one rank for all. The machine
    needs no GPU and little memory. The command counts peak bytes, FLOPs and messages, and says
    whether the step fits. Exits 0 for a verdict (ok, oom, host_oom, infeasible, unavailable), 1 if
    a role failed or a search found nothing that fits.

    Example: sppo-bench emulate megatron --model gpt-7b --seq 1M --gpus 32 --tp 8 --pp 4
    --recompute full --sequences-per-step 8

    Example: sppo-bench emulate sppo --model gpt-7b --seq 4M --gpus 128

    Example: sppo-bench emulate deepspeed --model gpt-7b --seq 1M --gpus 32 --zero 3 --recompute
    full

    Example: sppo-bench emulate native gpt-7b-128k-8xa100 --tuned --publish
    """

    workload: Annotated[Positional[str | None], arg(metavar="WORKLOAD")] = None
    """A name of `sppo-bench list`, or a workload file; or instead --model, --seq and --gpus."""
    hardware: Annotated[str | None, arg(metavar="PROFILE")] = None
    """A hardware profile, whose memory and nodes count; a100-80g with --model."""
    device_memory: Annotated[str | None, arg(metavar="SIZE")] = None
    """Memory of one rank's device: 160MiB, 79.15GiB or none; the workload's own if not given (of a
    profile: its device memory less its reserve)."""
    sequences_per_step: Annotated[int | None, arg(metavar="COUNT")] = None
    """Sequences of an optimizer step; the workload's own, mostly 1, if not given."""
    ranks: Annotated[str, arg(metavar="WHICH")] = "roles"
    """roles (one rank of each role), all, or ranks by comma: 0,8,31."""
    longest: bool = False
    """The longest sequence that fits, searched by emulating one length after another."""
    tuned: bool = False
    """megatron, deepspeed and native: search the system's own grid for the fastest simulated step
    that fits; with --longest, for the longest sequence."""
    at_most: Annotated[str | None, arg(metavar="TOKENS")] = None
    """With --longest: the longest length to try; eight times --seq if not given."""
    again: bool = False
    """Run every role, even if the cache has the same role of the same code (results/cache/)."""
    stale: bool = False
    """Accept counts of older code from results/cache/, marked `stale` with their commit."""
    time_limit: float = 900.0
    """Seconds of one emulated rank."""
    budget: Annotated[float | None, arg(metavar="SECONDS")] = None
    """With --tuned: seconds of the search, which then ends with the best so far and says what was
    not tried. No end if not given."""
    publish: bool = False
    """With --tuned: copy the answer to results/published/emulation/, from where `run` takes the
    row's settings if no grid was measured."""
    json: bool = False
    """The verdict as JSON on standard output."""
    no_wandb: bool = False
    """With --tuned or --longest: write no wandb run (docs/wandb.md). By default there is one, live;
    offline unless WANDB_MODE is set."""

    def run(self) -> int:
        """The exit code: 1 if a role failed or a search has no answer. Raises UsageError."""
        system = system_named(self.system)
        if system != self.system:
            return replace(self, system=system).run()
        arguments.check_time_limit(self.time_limit)
        if self.at_most is not None and not self.longest:
            raise UsageError("--at-most bounds --longest, which is not asked for")
        check_budget(self.budget, tuned=self.tuned)
        if self.publish and (not self.tuned or self.longest):
            raise UsageError(
                "--publish is for the fastest settings: give --tuned, without --longest"
            )
        if self.publish and self.stale:
            raise UsageError("--publish: stale counts are not published; leave --stale out")
        workload = self._workload()
        if self.longest or self.tuned:
            return self._search(workload)
        if self.resume is not None:
            raise UsageError(
                "--resume goes on with a search, --longest or --tuned; the roles of one emulation "
                "come from results/cache/: leave --resume out"
            )
        with usage_errors(Misfit, OSError):
            emulation = self._emulator().emulate(
                workload,
                self.system,
                self.settings(workload),
                lambda roles: asked_roles(self.ranks, roles, workload),
            )
        code = show_emulation(emulation, self.json)
        if emulation.directory:
            print(f"saved to {emulation.directory}", file=sys.stderr)
        return code

    def settings(self, workload: Workload) -> Any:
        """The system's own settings. Raises UsageError."""
        return settings_of(self.system, self.given(), workload)

    def _workload(self) -> Workload:
        """The workload by its name or by the model flags. Raises UsageError."""
        by_flags = any(getattr(self, name) is not None for name in arguments.MODEL_FLAGS)
        if not by_flags and self.workload is None:
            raise UsageError(
                "emulate needs a WORKLOAD of `sppo-bench list`, or --model NAME --seq TOKENS "
                "--gpus COUNT"
            )
        degrees = (name for name in self.given() if name != "zero")
        arguments.check_positive(self, ("sequences_per_step", *degrees))
        hardware = self.hardware or (HARDWARE if by_flags else None)
        workload = arguments.find_described(replace(self, hardware=hardware))
        assert workload is not None, "a name or a flag was given"
        if self.sequences_per_step is None:
            return workload
        return replace(workload, sequences_per_step=self.sequences_per_step)

    def _emulator(self) -> Emulator:
        """An emulator with the folder, the time limit and the cache of the flags."""
        from benchmarks.emulation.cache import default_cache
        from benchmarks.emulation.emulator import Emulator

        return Emulator(
            parent=arguments.parent(self),
            time_limit_seconds=self.time_limit,
            cache=None if self.again else default_cache(accept_stale=self.stale),
        )

    def _search(self, workload: Workload) -> int:
        from benchmarks.commands.planning import emulate_search
        from benchmarks.emulation import resuming

        at_most_tokens = emulate_search.at_most_tokens(self.at_most, workload)
        if self.ranks != "roles":
            raise UsageError(f"--ranks {self.ranks}: a search emulates one rank of each role")
        if self.tuned:
            check_tuned(self.system, self.given())
        settings = None if self.tuned else self.settings(workload)
        search = replace(workload, name=f"search-{self.system}-{workload.name}")
        code = resuming.code_of([self.system])
        with run_folder(self, search, code=code) as directory, tracked(self, directory) as live:
            return emulate_search.search(
                workload,
                self.system,
                settings,
                self._emulator().for_search(directory),
                live,
                longest_up_to=at_most_tokens if self.longest else None,
                budget_seconds=self.budget,
                publishes=self.publish,
                as_json=self.json,
            )


def asked_roles(which: str, roles: tuple[Role, ...], workload: Workload) -> tuple[Role, ...]:
    """The ranks to emulate, of --ranks, each with the name of its role. Raises UsageError."""
    if which == "roles":
        return roles
    known = range(workload.cluster.ranks)
    names = map(str, known) if which == "all" else which.split(",")
    ranks = {int(name) if name.strip().isdecimal() else -1 for name in names}
    if not ranks <= set(known):
        last = known[-1]
        raise UsageError(f"--ranks {which}: roles, all, or ranks of 0 to {last} by comma, as 0,8")
    return tuple(_single_rank(rank, roles) for rank in sorted(ranks))


def _single_rank(rank: int, roles: tuple[Role, ...]) -> Role:
    """One rank as a role. Roles are blocks of ranks, each with the rank of its first."""
    role = max((role for role in roles if role.rank <= rank), key=lambda role: role.rank)
    return replace(role, name=f"{role.name}, rank {rank}", rank=rank, ranks=1)


def show_emulation(emulation: Emulation, as_json: bool) -> int:
    """Print the verdict; the exit code."""
    from benchmarks.emulation import tables

    show(as_json, emulation, tables.text(emulation))
    done = ("ok", "oom", "host_oom", "unavailable", "infeasible")
    statuses = [emulation.status, *(report.status for report in emulation.roles)]
    return 0 if all(status in done for status in statuses) else 1

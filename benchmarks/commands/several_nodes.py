"""The commands of several nodes: their place, the crew of node 0, and a node that follows."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.commands.arguments import (
    UsageError,
    parent,
    usage_error,
    usage_errors,
)
from benchmarks.commands.flags import SeveralNodes
from benchmarks.commands.machine import check_machine
from benchmarks.commands.run_folder import CHANGEABLE, name_of, words
from benchmarks.environment import describe_environment
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.nodes import follower, place
from benchmarks.nodes.addresses import wait_for_name
from benchmarks.nodes.crew import Crew
from benchmarks.nodes.facts import facts_here
from benchmarks.nodes.head import gather
from benchmarks.nodes.messages import Hello
from benchmarks.nodes.own_folder import own_folder
from benchmarks.nodes.place import ONE_NODE, Place
from benchmarks.nodes.token import run_token
from benchmarks.records.store import RecordError
from sppo.config.workload import Workload

INTERRUPTED = 130
WRONG_INPUT = 2
FAILED = 1
"""Exit codes, as in `benchmarks.cli`."""


def on_nodes(
    command: SeveralNodes, workload: Workload, measure: Callable[[Team], int], asked: str
) -> int:
    """Measure as node 0, or follow node 0 as another one; the exit code of all nodes.

    measure: leads all launches, with the other nodes; its exit code. asked: the workload as the
    user named it. Raises UsageError.
    """
    count = count_of(command)
    where = place_of(command, count)
    follows = where is not None and where.rank > 0
    problem = machine_problem(workload, count, asked, name_of(command), follows=follows)
    arguments = [name_of(command), *words(command, without=CHANGEABLE)]
    if where is not None and follows:
        return follow(command, where, arguments, problem)
    with crew_of(command, where, arguments) as crew:
        if crew is None:
            return measure(ALONE)
        crew.exit_code = measure(crew)
        return crew.exit_code


def machine_problem(
    workload: Workload, nodes: int, asked: str, command: str, *, follows: bool
) -> str:
    """Why this machine cannot run its ranks: for node 0 to say where this node `follows`.

    asked: the workload as the user named it. command: the name of the command.

    Raises UsageError elsewhere.
    """
    try:
        check_machine(workload, nodes, asked, command)
    except UsageError as error:
        if not follows:
            raise
        return str(error)
    return ""


def count_of(command: SeveralNodes) -> int:
    """The number of nodes: the flag's, else that of the launcher outside, else 1.

    Raises UsageError.
    """
    if command.nodes is not None:
        if command.nodes < 1:
            raise UsageError(f"--nodes {command.nodes}: it must be at least 1")
        return command.nodes
    if command.node_rank is not None or command.endpoint is not None:
        raise UsageError("--node-rank and --endpoint are those of several nodes: give --nodes too")
    with usage_errors():
        outside = place.outside(os.environ)
    return 1 if outside is None else outside.count


def divided(workload: Workload, nodes: int) -> Workload:
    """The workload with its ranks on so many nodes, and a name of its own.

    Times and grids of one node are not those of several. Raises UsageError where the ranks do not
    divide.
    """
    cluster = workload.cluster
    if nodes in (1, cluster.nodes):
        return workload
    if cluster.ranks % nodes:
        able = [str(n) for n in range(1, cluster.ranks + 1) if cluster.ranks % n == 0]
        raise UsageError(
            f"--nodes {nodes}: the {cluster.ranks} ranks of {workload.name} do not divide; give "
            f"{', '.join(able[:-1])}{' or ' if able[:-1] else ''}{able[-1]}"
        )
    cluster = replace(cluster, nodes=nodes, ranks_per_node=cluster.ranks // nodes)
    return replace(workload, name=f"{workload.name}-{nodes}-nodes", cluster=cluster)


def place_of(command: SeveralNodes, count: int) -> Place | None:
    """The place of this node; None for one node. Raises UsageError."""
    with usage_errors():
        if not 0 < command.node_wait < 1e6:
            raise ValueError(f"--node-wait {command.node_wait:g}: it must be positive seconds")
        if count == 1:
            return None
        if command.nodes is None:
            outside = place.outside(os.environ)
            if outside is not None and outside.source:
                say(f"node {outside.rank} of {count}, from {outside.source}; {ONE_NODE}")
                return outside
        step = place.of_slurm(os.environ)
        if step is None:
            return place.of_flags(count, command.node_rank, command.endpoint)
        if step.count != count:
            raise ValueError(
                f"--nodes {count}, and srun has started the command on {step.count} nodes: give "
                f"srun --nodes {count}, or leave --nodes out"
            )
        rank = step.rank if command.node_rank is None else command.node_rank
        where = place.of_flags(count, rank, command.endpoint or step.endpoint)
        return replace(where, job=step.job)


@contextmanager
def crew_of(
    command: SeveralNodes, where: Place | None, arguments: Sequence[str]
) -> Iterator[Crew | None]:
    """The other nodes, for node 0; None without any. They end with the crew's exit code.

    Without one of its own, the crew fails.

    Raises UsageError where nothing can start.
    """
    if where is None:
        yield None
        return
    with ExitStack() as stack:
        with usage_errors():
            token = stack.enter_context(run_token(where, command.node_wait))
            facts = facts_here(list(arguments))
            wait_for_name(where, command.node_wait)
            nodes = gather(where, token, facts, command.node_wait, say)
        crew = Crew(place=where, nodes=nodes, say=say)
        try:
            yield crew
        except KeyboardInterrupt:
            crew.exit_code = INTERRUPTED
            raise
        except (UsageError, RecordError):
            crew.exit_code = WRONG_INPUT
            raise
        finally:
            crew.close(crew.exit_code)


def own_parent(command: SeveralNodes) -> Path:
    """Where a node that follows makes its folder: --output, else beside the folder of --resume.

    A following node never resumes: it has no records. Raises UsageError.
    """
    if command.output is None and command.resume is not None:
        command = replace(command, output=command.resume.resolve().parent)
    return parent(command)


def follow(command: SeveralNodes, where: Place, arguments: Sequence[str], problem: str) -> int:
    """Take part as node 1 or up, in a folder of its own; the exit code of node 0.

    problem: why this node cannot take part, for node 0 to say. Raises UsageError.
    """
    folder = own_parent(command)
    with ExitStack() as stack:
        with usage_errors(), run_token(where, command.node_wait) as token:
            say(f"node {where.rank} looks for node 0 at {where.endpoint}, {command.node_wait:g} s")
            try:
                directory = stack.enter_context(own_folder(folder, where.rank))
            except (OSError, ValueError) as error:
                directory = folder
                problem = problem or str(usage_error(error))
            hello = Hello(
                rank=where.rank,
                nodes=where.count,
                facts=facts_here(list(arguments)),
                environment=describe_environment(),
                problem=problem,
            )
            wait_for_name(where, command.node_wait)
            channel = follower.join(where, token, hello, command.node_wait)
            stack.callback(channel.close)
        assert directory != folder, "node 0 refuses a node with a problem"
        node = follower.Follower(place=where, channel=channel, directory=directory, say=say)
        try:
            code = node.follow()
        except follower.Gone as gone:
            logs = f"; files of this node: {directory}" if any(directory.glob("launch-*")) else ""
            print(f"error: {gone}{logs}", file=sys.stderr)
            return FAILED
    say(f"node {where.rank} ends with the exit code of node 0: {code}")
    return code


def say(line: str) -> None:
    """A line on standard error."""
    print(line, file=sys.stderr, flush=True)

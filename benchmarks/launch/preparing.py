"""The inputs of launches: initial weights and tokens, the same on every node of a run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.environment import describe_environment
from benchmarks.launch import resuming
from benchmarks.launch.options import REFERENCE_STEPS, Options
from benchmarks.launch.ranks.team import ALONE, Team
from benchmarks.launch.recording import Inputs
from benchmarks.launch.resuming import InputsFile
from benchmarks.launch.time_limits import inputs_limit_seconds
from benchmarks.records.record import Text
from benchmarks.worker.steady_peak import steady_peak
from sppo.config.workload import Workload


def prepare(workload: Workload, options: Options, directory: Path, team: Team = ALONE) -> Inputs:
    """Write weights and tokens on all nodes, measure the peak, describe the machines.

    Raises ValueError or OSError on text that cannot be used, or on a node with other inputs. A
    failure removes these files, and a folder that is then empty. A resumed folder keeps its peak,
    and gets its files before its first launch.
    """
    make_files = None
    noted = resuming.read_inputs(directory)
    if noted is not None:
        make_files = partial(_make_files, workload, options, directory, noted, team)
    else:
        with ExitStack() as undo:
            undo.callback(resuming.remove_files, directory)
            team.prepare(workload, options)
            text = write_tokens(workload, options, directory / "tokens.npy")
            write_weights(workload, directory / "weights.pt")
            on_cpu = workload.cluster.device == "cpu"
            cpu_peak = steady_peak(options.threads_per_rank) if on_cpu else None
            noted = resuming.save_inputs(directory, text, cpu_peak)
            team.check_inputs(_digests(noted), inputs_limit_seconds(workload))
            undo.pop_all()
    environment = describe_environment()
    nodes = team.describe(environment)
    return Inputs(
        workload=workload,
        directory=directory,
        text=noted.text,
        cpu_peak=noted.cpu_peak,
        environment={**environment, "nodes": nodes} if nodes else environment,
        make_files=make_files,
        team=team,
    )


def _digests(noted: InputsFile) -> dict[str, str]:
    return {"tokens": noted.tokens_sha256, "weights": noted.weights_sha256}


def _make_files(
    workload: Workload, options: Options, directory: Path, noted: InputsFile, team: Team
) -> None:
    """Write the inputs of a resumed folder on all nodes, unless they are there.

    Raises ResumeError unless they are as noted, or NodeLost.
    """
    if all((directory / name).exists() for name in ("weights.pt", "tokens.npy")):
        return
    team.prepare(workload, options)
    resuming.make_files(
        directory,
        noted,
        partial(write_weights, workload, directory / "weights.pt"),
        partial(write_tokens, workload, options, directory / "tokens.npy"),
    )
    try:
        team.check_inputs(_digests(noted), inputs_limit_seconds(workload))
    except ValueError as error:
        raise resuming.ResumeError(error) from None


def write_weights(workload: Workload, path: Path) -> None:
    """Write the initial weights. Raises OSError, or MemoryError: torch has another name for it."""
    from benchmarks.worker import weights
    from benchmarks.worker.device import is_out_of_memory

    dtype = weights.torch_dtype(workload.dtype)
    try:
        values = weights.initial_weights(workload.model, workload.seed, dtype)
    except RuntimeError as error:
        if is_out_of_memory(error, limit_in_force=True):
            raise MemoryError from None
        raise
    weights.save_weights(values, path)


def write_tokens(workload: Workload, options: Options, path: Path) -> Text:
    """Write the tokens of all steps of any launch. Raises ValueError or OSError."""
    from benchmarks.worker.tokens import token_file

    return token_file(workload, max(options.steps, REFERENCE_STEPS), path)


def with_workload(inputs: Inputs, workload: Workload, options: Options) -> Inputs:
    """The same weights for another length, limit or number of sequences, with new tokens.

    Raises ValueError on text that is too short, or on a node with other tokens. A resumed folder
    first checks that its text is the one of the earlier launches: tokens of another shape have
    another digest.
    """
    text = inputs.text
    if batch_shape(workload) != batch_shape(inputs.workload):
        if inputs.make_files is not None:
            inputs.make_files()
        inputs.team.prepare(workload, options)
        text = write_tokens(workload, options, inputs.tokens_path)
        tokens = {"tokens": resuming.digest(inputs.tokens_path)}
        inputs.team.check_inputs(tokens, inputs_limit_seconds(workload))
    return replace(inputs, workload=workload, text=text)


def batch_shape(workload: Workload) -> tuple[int, int]:
    """Sequences of a step, and tokens of a sequence."""
    return workload.sequences_per_step, workload.sequence_tokens


def remove_inputs(inputs: Inputs) -> None:
    """Remove weights and tokens, which are reproducible. Records stay."""
    inputs.weights_path.unlink(missing_ok=True)
    inputs.tokens_path.unlink(missing_ok=True)

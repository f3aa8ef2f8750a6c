"""A run that goes on where it was stopped: what is on disk is not measured again.

A command measures in a fixed order, and every decision follows from records. So a resumed command
takes the same way once more: a launch with a record is read, and the others are launched. The
page: docs/resume.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil

from benchmarks.job import Job
from benchmarks.launch.recording import Inputs, before_gate
from benchmarks.records import record as records
from benchmarks.records import store
from benchmarks.records.record import Peak, Record, Text
from benchmarks.rows.row import Configuration, settings_key

INPUTS_SCHEMA = "sppo-inputs/1"
INPUTS_NAME = "inputs.json"
GONE_SECONDS = 10.0
"""How long the ranks of a killed command may take to end."""


class ResumeError(ValueError):
    """A folder cannot be resumed. The message is one line with the cure."""


class InputsFile(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a folder's launches: digests of their files, and the peak of one rank."""

    schema: str = INPUTS_SCHEMA
    text: Text
    weights_sha256: str
    tokens_sha256: str
    cpu_peak: Peak | None


def save_inputs(directory: Path, text: Text, cpu_peak: Peak | None) -> InputsFile:
    """Note the weights and tokens that lie in the folder. Raises OSError."""
    inputs = InputsFile(
        text=text,
        weights_sha256=digest(directory / "weights.pt"),
        tokens_sha256=digest(directory / "tokens.npy"),
        cpu_peak=cpu_peak,
    )
    store.save(directory / INPUTS_NAME, inputs)
    return inputs


def read_inputs(directory: Path) -> InputsFile | None:
    """The noted inputs of a resumed folder; None without any.

    Weights and tokens may be half-written: they are removed, and made anew by `make_files`.
    """
    path = directory / INPUTS_NAME
    if not path.is_file():
        return None
    inputs = store.read_json(path, InputsFile, INPUTS_SCHEMA, "measure anew without --resume")
    for name in ("weights.pt", "tokens.npy"):
        (directory / name).unlink(missing_ok=True)
    return inputs


def make_files(
    directory: Path,
    noted: InputsFile,
    write_weights: Callable[[], None],
    write_tokens: Callable[[], Text],
) -> None:
    """Write the missing ones of weights and tokens. Raises ResumeError unless they are as noted."""
    for name, write, sha256 in (
        ("weights.pt", write_weights, noted.weights_sha256),
        ("tokens.npy", write_tokens, noted.tokens_sha256),
    ):
        path = directory / name
        if path.exists():
            continue
        try:
            write()
        except (ValueError, OSError) as error:
            path.unlink(missing_ok=True)
            raise ResumeError(f"{name} cannot be made again: {error}") from None
        if digest(path) != sha256:
            path.unlink()
            raise ResumeError(
                f"{name} is not that of the earlier launches: the text or a library has changed; "
                "restore it, or measure anew without --resume"
            )


def remove_files(directory: Path) -> None:
    """Remove the inputs, and the folder if nothing else is in there, such as earlier records."""
    for name in ("weights.pt", "tokens.npy", INPUTS_NAME):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        directory.rmdir()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def recorded(inputs: Inputs, configuration: Configuration, job: Job) -> Record | None:
    """The record of this very launch, as before the gate; None where the launch did not end.

    Raises ResumeError where the record is of another job, RecordError where it is damaged.
    """
    path = Path(job.output_directory) / records.FILE_NAME
    if not path.exists():
        return None
    record = records.read(path)
    pairs = {
        "workload": (record.workload, job.workload),
        "system": (record.system, job.system),
        "ranks": (record.ranks, job.ranks),
        "settings": (settings_key(record.settings), configuration.key),
        "plan": (record.settings_text, configuration.settings_text),
        "text": (record.text, inputs.text),
    }
    differing = [name for name, (before, now) in pairs.items() if before != now]
    if differing:
        raise ResumeError(
            f"{path.parent}: measured with another {differing[0]} than today's; "
            "measure anew without --resume"
        )
    restored = before_gate(record)
    if restored != record:
        records.write(restored, path)
    return restored


def clear(launch_directory: Path) -> None:
    """Remove the folder of a launch that was stopped before its record."""
    if launch_directory.exists():
        shutil.rmtree(launch_directory)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep a second process out of the folder. The system frees the lock of a killed process.

    Raises ResumeError while another process measures there.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResumeError(f"{directory}: a command measures there now; wait for it") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def end_orphans(directory: Path) -> None:
    """End ranks that outlived a killed command: Python processes with a job of this folder."""
    orphans = [process for process in psutil.process_iter() if _has_job_of(process, directory)]
    for process in orphans:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(orphans, timeout=GONE_SECONDS)


def _has_job_of(process: psutil.Process, directory: Path) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    if not words or not Path(words[0]).name.startswith("python"):
        return False
    return any(
        word.startswith(f"{directory}{os.sep}") and Path(word).name == "job.json" for word in words
    )

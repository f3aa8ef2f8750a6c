"""A process that has imported torch and a system's library, and forks emulated ranks.

    python -m benchmarks.emulation.forked.rank_server SYSTEM

An import takes longer than a rank of few layers. One line of JSON on standard input asks for a rank
(`RankRequest`); the answer is a line with its exit code (minus the signal that ended it). Between
two ranks nothing of the first is left: each is a fork of the same process. The server ends with its
standard input.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import msgspec

from benchmarks.worker.parent import end_with_parent, parent_variable

MODULES = {
    "deepspeed": (
        "deepspeed",
        "deepspeed.module_inject",
        "deepspeed.runtime.sequence_parallel.ulysses_sp",
        "deepspeed.runtime.zero.stage3",
        "deepspeed.sequence.layer",
        "torch._dynamo",
        "torch._inductor.lowering",
        "baselines.deepspeed.system",
    ),
    "megatron": ("baselines.megatron.system",),
    "native": ("torch._dynamo", "baselines.native.system"),
    "sppo": ("torch._dynamo", "baselines.sppo"),
}
"""What a rank of a system imports until the end of its step. Without a name here the rank imports
for itself."""

VARIABLES = {"deepspeed": {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "error"}}
"""Variables that a library reads when it is imported. An emulated device is a CPU."""


class RankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One rank. arguments: of the worker's `main`. log: the file that gets its output."""

    arguments: list[str]
    environment: dict[str, str]
    log: str


def main() -> None:
    """Fork ranks, one at a time, until standard input ends."""
    end_with_parent(signal.SIGKILL)
    import_libraries(sys.argv[1])
    from benchmarks.accounting.visible import spare_live_objects
    from benchmarks.emulation.worker import main as emulate

    spare_live_objects()
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=RankRequest)
        code = exit_code_of_fork(
            partial(emulate, request.arguments), request.environment, request.log
        )
        os.write(sys.stdout.fileno(), b"%d\n" % code)


def exit_code_of_fork(work: Callable[[], None], environment: Mapping[str, str], log: str) -> int:
    """Work in a fork of this process, which ends with this process.

    environment: variables that the fork gets besides those of this process. log: the file that gets
    the output. The exit code is minus the signal that ended the fork.
    """
    own = parent_variable()
    child = os.fork()
    if child == 0:
        os.environ.update({**environment, **own})
        end_with_parent(signal.SIGKILL)
        os._exit(_exit_code(work, log))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def import_libraries(system: str) -> None:
    """Import the worker and the system's library, without their warnings."""
    library = system.partition("-")[0]  # a row marked "ours" runs the same library
    os.environ.update(VARIABLES.get(library, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("benchmarks.emulation.worker")
        for name in MODULES.get(library, ()):
            with suppress(ImportError):  # another version of the library
                importlib.import_module(name)


def _exit_code(work: Callable[[], None], log: str) -> int:
    """Work in this process, as an interpreter of its own would: errors are reported and printed."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    try:
        work()
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException as error:  # as an interpreter ends: the hook reports, then prints
        kind, trace = type(error), error.__traceback__
        if isinstance(error, Exception):
            sys.excepthook(kind, error, trace)
        else:
            traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()

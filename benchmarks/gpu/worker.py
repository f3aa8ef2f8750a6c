"""The process of a step: python -m benchmarks.gpu.worker STEP DEVICE SECONDS DIRECTORY VALUES.

It writes the step's values. Exit code 1 with a traceback: the step failed; 3 with one line: this
machine lacks something. A step's last line is its reason.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path

import torch

from baselines.protocol import Unavailable
from benchmarks.gpu.place import FULL, TINY, Place
from benchmarks.gpu.step import Incomplete
from benchmarks.gpu.suite import STEPS, UNAVAILABLE
from benchmarks.records import store
from benchmarks.worker.parent import end_with_parent
from sppo.config.errors import NotSupported


def main(arguments: list[str]) -> int:
    """Run the step; the exit code."""
    end_with_parent(signal.SIGKILL)
    name, device, seconds, directory, values_path = arguments
    (step,) = (step for step in STEPS if step.name == name)
    place = Place(
        device=torch.device(device),
        sizes=FULL if device == "cuda" else TINY,
        directory=Path(directory),
        seconds=float(seconds),
    )
    try:
        values = step.run(place)
    except (NotSupported, Unavailable) as error:
        print(str(error).partition("\n")[0])
        return UNAVAILABLE
    except Incomplete as error:
        store.save(Path(values_path), error.values)
        print(error)
        return 1
    except (RuntimeError, ValueError, OSError, AssertionError, ImportError) as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)
        return 1
    store.save(Path(values_path), values)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

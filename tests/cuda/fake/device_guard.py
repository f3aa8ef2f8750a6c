"""Builds the fake CUDA device by g++, once for each source and version of torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

_SOURCE = Path(__file__).with_name("device_guard.cpp")

WHY_NOT = (
    None
    if shutil.which("g++") and not torch.backends.cuda.is_built()
    else "the fake CUDA device needs g++ and a CPU build of torch"
)
"""Why this machine cannot build it; None if it can."""


def shared_object(folder: Path) -> Path:
    """The built library in `folder`, to be preloaded before torch is imported.

    Raises CalledProcessError where g++ fails.
    """
    abi = int(torch.compiled_with_cxx11_abi())
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={abi}"]
    version = " ".join((torch.__version__, *flags)).encode()
    name = hashlib.sha256(_SOURCE.read_bytes() + version).hexdigest()[:16]
    library = folder / f"fake-cuda-{name}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        includes = [f"-I{path}" for path in include_paths()]
        # Preloaded before torch, so it must bring torch's own libraries along.
        libraries = ["-Wl,--no-as-needed", "-lc10", "-ltorch_cpu"]
        libraries += [f"{flag}{path}" for path in library_paths() for flag in ("-L", "-Wl,-rpath,")]
        command = ["g++", *flags, str(_SOURCE), *includes, *libraries, "-o", str(unfinished)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        unfinished.rename(library)
    return library

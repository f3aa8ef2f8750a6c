"""The tests of the CUDA path, and a step of every policy under torch's sanitizer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

from benchmarks.environment import CHECKOUT, child_environment, import_path
from benchmarks.gpu.place import Place, train
from sppo.config.errors import NotSupported
from sppo.planner.options import SolverOptions

TESTS = "tests/gpu"


def gpu_tests(place: Place) -> dict[str, Any]:
    """Run tests/gpu of the checkout; on a CPU only find them. Raises RuntimeError if one fails."""
    if not (CHECKOUT / TESTS).is_dir():
        raise NotSupported(f"{TESTS} is not in an installed package: run the suite in a checkout")
    command = [sys.executable, "-m", "pytest", TESTS, "-q", "-p", "no:cacheprovider"]
    if not place.on_cuda:
        command.append("--collect-only")
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=child_environment(import_path()),
        capture_output=True,
        text=True,
        timeout=place.seconds,
        check=False,
    )
    print(done.stdout, done.stderr, sep="\n")
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    summary = lines[-1] if lines else "no output of pytest"
    if "No module named pytest" in done.stderr:
        raise NotSupported("pytest is not installed: pip install pytest pytest-timeout")
    if done.returncode:
        raise RuntimeError(f"tests/gpu: {summary}")
    return {"summary": summary}


def policies(place: Place) -> dict[str, SolverOptions]:
    """Settings by name: each decision on saved tensors, and K and V on both sides."""
    kept = SolverOptions(
        policy="no-offload",
        kv_offload=False,
        subsequences=place.sizes.subsequences,
        virtual_stages=1,
    )
    offloaded = replace(kept, policy="full-offload")
    return {
        "kept": kept,
        "offloaded": offloaded,
        "recomputed": replace(kept, policy="lean"),
        "hosted KV": replace(offloaded, kv_offload=True),
    }


def sanitized_steps(place: Place) -> dict[str, Any]:
    """One step of each policy. On CUDA under torch's sanitizer, which raises on a race."""
    if place.on_cuda:
        from torch.cuda import _sanitizer

        _sanitizer.enable_cuda_sanitizer()
    tokens = place.sizes.offload_tokens // 8
    values: dict[str, Any] = {"sanitizer": place.on_cuda, "tokens": tokens}
    for name, options in policies(place).items():
        done = train(place, tokens, options, steps=1)
        values[name] = {"loss": done.losses[-1], "gradient_norm": done.norms[-1]}
    return values

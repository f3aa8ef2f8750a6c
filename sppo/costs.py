"""FLOPs and bytes as exact integers, and a hardware profile that turns them into nanoseconds.

FLOPs convention: a multiply-add is two; attention is counted causal (the pairs really needed)
unless a name says "full"; a backward counts twice its forward.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo.errors import NotBuilt
from sppo.workload import Model, Workload

PROFILES = Path(__file__).parent / "profiles"


def layer_dense_flops_per_token(model: Model) -> int:
    """Forward FLOPs of the linear layers of one block, per token."""
    attention = 2 * model.hidden * model.hidden + 2 * model.hidden * model.kv_width
    matrices = 3 if model.activation == "swiglu" else 2
    return 2 * (attention + matrices * model.hidden * model.ffn)


def head_flops_per_token(model: Model) -> int:
    """Forward FLOPs of the output head, per token."""
    return 2 * model.hidden * model.vocabulary


def attention_flops(model: Model, pairs: int) -> int:
    """Forward FLOPs of one block's attention over `pairs` (query, key) pairs: QK^T and PV."""
    return 4 * model.hidden * pairs


def causal_pairs(start: int, tokens: int) -> int:
    """(query, key) pairs of a subsequence of `tokens` that begins at position `start`."""
    return tokens * start + tokens * (tokens + 1) // 2


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs of one optimizer step over all ranks, forward and backward, without recompute."""

    dense: int
    attention_causal: int
    attention_full: int

    @property
    def causal(self) -> int:
        return self.dense + self.attention_causal

    @property
    def full(self) -> int:
        return self.dense + self.attention_full


def step_flops(workload: Workload) -> StepFlops:
    """What the workload needs, whoever runs it."""
    model, tokens = workload.model, workload.sequence_tokens
    dense = model.layers * layer_dense_flops_per_token(model) + head_flops_per_token(model)
    causal = model.layers * attention_flops(model, causal_pairs(0, tokens))
    full = model.layers * attention_flops(model, tokens * tokens)
    sequences = workload.sequences_per_step
    return StepFlops(
        dense=3 * sequences * tokens * dense,
        attention_causal=3 * sequences * causal,
        attention_full=3 * sequences * full,
    )


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s reached by a subsequence of `tokens` tokens (a row of a profile)."""

    tokens: int
    dense_forward: float
    dense_backward: float
    attention_forward: float
    attention_backward: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One rank's hardware: achieved rates by subsequence length, links, and where they come from.

    `overlapped_copies` is False on a CPU, where a copy takes the compute's time.
    """

    name: str
    source: str
    device: str
    dtype: str
    rates: tuple[Rates, ...]
    layer_overhead_seconds: float
    d2h_bytes_per_second: float
    h2d_bytes_per_second: float
    p2p_bytes_per_second: float
    p2p_latency_seconds: float
    overlapped_copies: bool

    def __post_init__(self) -> None:
        links = (self.d2h_bytes_per_second, self.h2d_bytes_per_second, self.p2p_bytes_per_second)
        if not self.rates or min(links) <= 0:
            raise ValueError(f"profile {self.name}: rates are missing or not positive")
        sizes = [row.tokens for row in self.rates]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"profile {self.name}: rates must ascend by tokens")

    def rate(self, tokens: int, kind: str) -> float:
        """FLOP/s at that subsequence length: linear between the measured lengths, flat outside."""
        sizes = [row.tokens for row in self.rates]
        above = bisect_right(sizes, tokens)
        if above == 0:
            return float(getattr(self.rates[0], kind))
        if above == len(sizes):
            return float(getattr(self.rates[-1], kind))
        low, high = self.rates[above - 1], self.rates[above]
        weight = (tokens - low.tokens) / (high.tokens - low.tokens)
        low_rate, high_rate = getattr(low, kind), getattr(high, kind)
        return float(low_rate + weight * (high_rate - low_rate))


def load_profile(name: str) -> Profile:
    """A committed profile by name. Raises NotBuilt naming the known profiles."""
    path = PROFILES / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(entry.stem for entry in PROFILES.glob("*.json")))
        raise NotBuilt(f"no hardware profile {name!r} has been measured; there are: {known}")
    fields: dict[str, Any] = json.loads(path.read_text())
    fields["rates"] = tuple(Rates(**row) for row in fields["rates"])
    return Profile(**fields)


@dataclass(frozen=True, kw_only=True)
class SubsequenceCost:
    """Nanoseconds of one subsequence on one stage."""

    forward_ns: int
    backward_ns: int


def subsequence_cost(
    model: Model, profile: Profile, *, layers: int, head: bool, start: int, tokens: int
) -> SubsequenceCost:
    """Compute time of a stage of `layers` blocks, and of the head where `head` is true.

    The loss runs its backward inside its forward, so the whole head is charged to the forward.
    """
    dense = layers * layer_dense_flops_per_token(model) * tokens
    attention = layers * attention_flops(model, causal_pairs(start, tokens))
    head_flops = 3 * head_flops_per_token(model) * tokens if head else 0
    overhead = layers * profile.layer_overhead_seconds
    forward = (
        overhead
        + (dense + head_flops) / profile.rate(tokens, "dense_forward")
        + attention / profile.rate(tokens, "attention_forward")
    )
    backward = (
        2 * overhead
        + 2 * dense / profile.rate(tokens, "dense_backward")
        + 2 * attention / profile.rate(tokens, "attention_backward")
    )
    return SubsequenceCost(forward_ns=round(forward * 1e9), backward_ns=round(backward * 1e9))


def copy_ns(size_bytes: int, bytes_per_second: float, latency_seconds: float = 0.0) -> int:
    """Time of one copy or message over a link."""
    if size_bytes == 0:
        return 0
    return round((latency_seconds + size_bytes / bytes_per_second) * 1e9)

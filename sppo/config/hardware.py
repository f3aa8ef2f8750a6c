"""One rank's hardware: the rates it reaches, its links and its memories. Imports no torch.

Rates are FLOP/s in the convention of `sppo.cost_model.flops`: attention counts the pairs a causal
model needs, a backward counts twice its forward (a flash backward really computes 2.5 times). What
the fields mean and where the committed numbers come from: docs/hardware.md.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from sppo.config.errors import NotBuilt
from sppo.config.folders import in_checkout, user_folder

PROFILES = Path(__file__).parent / "hardware_profiles"
"""The committed ones."""

CURE = "`sppo-bench profile` measures one"

Kind = Literal["measured", "assumed"]

RATE_KINDS = ("dense_forward", "dense_backward", "attention_forward", "attention_backward")
POSITIVE = (
    "peak_flops_per_second",
    "memory_bytes_per_second",
    "d2h_bytes_per_second",
    "h2d_bytes_per_second",
    "p2p_bytes_per_second",
    "collective_bytes_per_second",
    "internode_bytes_per_second",
)
NOT_NEGATIVE = ("layer_overhead_seconds", "p2p_latency_seconds", "internode_latency_seconds")
LIBRARIES = (
    "context_bytes",
    "kernel_code_bytes",
    "workspace_bytes",
    "communicator_bytes",
    "connection_bytes",
    "process_bytes",
)
WHOLE = (
    "device_memory_bytes",
    "reserve_bytes",
    *LIBRARIES,
    "host_memory_bytes_per_rank",
    "ranks_per_node",
)
MAY_BE_ZERO = (*NOT_NEGATIVE, "reserve_bytes", *LIBRARIES)
INTERNODE = ("internode_bytes_per_second", "internode_latency_seconds")
NUMBERS = (*POSITIVE, *NOT_NEGATIVE, *WHOLE)
"""Every number of a profile outside its rates."""


class UnknownHardware(NotBuilt, ValueError):
    """No profile has that name: wrong input, and for a workload a part not there."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s reached by a subsequence of `tokens` tokens a device (a row of a profile).

    `tokens` are those of the subsequence divided by the ranks that share its heads and weights.
    The dense rates include the block's norms, activation functions and residual additions.
    """

    tokens: int
    dense_forward: float
    dense_backward: float
    attention_forward: float
    attention_backward: float


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One rank's hardware: achieved rates by subsequence length, links, memories, and sources.

    - `kind`: "measured" by this project on such a machine, or "assumed" from datasheets and
      published measurements; then `sources` names the origin of every number, by field.
    - `peak_flops_per_second`: dense datasheet peak of `dtype`; on a CPU the best matrix product.
    - `memory_bytes_per_second`: reached by element-wise kernels, bytes read and written together.
    - `device_memory_bytes`: as the driver reports it; `reserve_bytes` of it (context, libraries,
      workspaces) no plan may use. On a CPU one memory is both tiers, and both fields say the same.
    - What libraries take beside tracked tensors, planned by `memory_model/untracked.py`:
    `context_bytes` the
      driver, part of the reserve; `kernel_code_bytes` machine code of one kernel for one shape;
      `workspace_bytes` the matrix library; `communicator_bytes` a group of ranks,
      `connection_bytes` one way between two; `process_bytes` what the allocator rounds up.
    - `d2h_`, `h2d_bytes_per_second`: one rank's, while all ranks of its node copy.
    - `p2p_`, `internode_`: one rank's messages inside a node, and between nodes.
    - `collective_bytes_per_second`: bus bandwidth of all-gather and reduce-scatter in a node.
    - `overlapped_copies`: False on a CPU, where a copy takes the compute's time.

    Raises ValueError naming profile, field and cure where a number is missing or no number, NaN,
    infinite, negative, or zero where it must be positive. Only a CPU may lack internode numbers.
    """

    name: str
    kind: Kind
    source: str
    sources: Mapping[str, str] = field(hash=False)
    device: str
    dtype: str
    rates: tuple[Rates, ...]
    layer_overhead_seconds: float
    peak_flops_per_second: float
    memory_bytes_per_second: float
    device_memory_bytes: int
    reserve_bytes: int
    context_bytes: int
    kernel_code_bytes: int
    workspace_bytes: int
    communicator_bytes: int
    connection_bytes: int
    process_bytes: int
    host_memory_bytes_per_rank: int
    ranks_per_node: int
    d2h_bytes_per_second: float
    h2d_bytes_per_second: float
    p2p_bytes_per_second: float
    p2p_latency_seconds: float
    collective_bytes_per_second: float
    internode_bytes_per_second: float | None
    internode_latency_seconds: float | None
    overlapped_copies: bool

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            self._refuse("kind", f"{self.kind!r}, not one of {', '.join(get_args(Kind))}")
        if not isinstance(self.overlapped_copies, bool):
            self._refuse("overlapped_copies", f"{self.overlapped_copies!r}, not true or false")
        for name in NUMBERS:
            self._check_number(name, getattr(self, name))
        if self.reserve_bytes >= self.device_memory_bytes:
            self._refuse("reserve_bytes", f"{self.reserve_bytes}, not less than the device memory")
        if self.context_bytes > self.reserve_bytes:
            self._refuse("context_bytes", f"{self.context_bytes}, more than the reserve")
        self._check_rates()
        self._check_sources()

    @property
    def usable_device_bytes(self) -> int:
        """Bytes of device memory that a plan may fill."""
        return self.device_memory_bytes - self.reserve_bytes

    @cached_property
    def _lengths(self) -> list[int]:
        return [row.tokens for row in self.rates]

    def rate(self, tokens: int, kind: str) -> float:
        """FLOP/s at that subsequence length: linear between the known lengths, flat outside."""
        sizes = self._lengths
        above = bisect_right(sizes, tokens)
        if above == 0:
            return float(getattr(self.rates[0], kind))
        if above == len(sizes):
            return float(getattr(self.rates[-1], kind))
        low, high = self.rates[above - 1], self.rates[above]
        weight = (tokens - low.tokens) / (high.tokens - low.tokens)
        low_rate, high_rate = getattr(low, kind), getattr(high, kind)
        return float(low_rate + weight * (high_rate - low_rate))

    def _check_number(self, field: str, value: object, where: str = "") -> None:
        if value is None and field in INTERNODE and self.device == "cpu":
            return
        if value is None:
            self._refuse(where + field, "missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(where + field, f"{value!r}, not a number")
        if not math.isfinite(value):
            self._refuse(where + field, f"{value!r}, not a finite number")
        if field in (*WHOLE, "tokens") and not isinstance(value, int):
            self._refuse(where + field, f"{value!r}, not a whole number")
        if value < 0 or (value == 0 and field not in MAY_BE_ZERO):
            self._refuse(where + field, f"{value!r}, not positive")

    def _check_rates(self) -> None:
        if not self.rates:
            self._refuse("rates", "empty, not positive FLOP/s by tokens")
        for index, row in enumerate(self.rates):
            for name in ("tokens", *RATE_KINDS):
                self._check_number(name, getattr(row, name), f"rates[{index}].")
        sizes = [row.tokens for row in self.rates]
        if sizes != sorted(set(sizes)):
            self._refuse("rates", f"ordered {sizes}, not ascending by tokens")

    def _check_sources(self) -> None:
        known = (*NUMBERS, *RATE_KINDS)
        unknown = sorted(set(self.sources) - set(known))
        if unknown:
            self._refuse(f"sources.{unknown[0]}", "the source of no number")
        for name in known if self.kind == "assumed" else self.sources:
            if not self.sources.get(name):
                self._refuse(f"sources.{name}", "missing: an assumed number names its origin")

    def _refuse(self, field: str, problem: str) -> NoReturn:
        raise ValueError(f"profile {self.name}: {field} is {problem}; {CURE}")


def own_profiles() -> Path:
    """Where new profiles are saved: in a checkout among the committed ones, else with the user."""
    return PROFILES if in_checkout() else user_folder() / "hardware_profiles"


def load_hardware(name: str) -> Hardware:
    """A known profile by its name, or the profile of a file by a path that ends in `.json`.

    The user's own come before the committed ones. Raises UnknownProfile (a ValueError) listing the
    known names, and ValueError in one line where the file is missing, is no JSON, or lacks, has too
    many or has impossible numbers.
    """
    if not name.endswith(".json"):
        path = own_profiles() / f"{name}.json"
        if not path.is_file():
            path = PROFILES / path.name
        if not path.is_file():
            raise UnknownHardware(
                f"no hardware profile {name!r}; there are: {', '.join(known_profiles())}, "
                f"or a path to a .json file; {CURE}"
            )
    else:
        path = Path(name)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"profile {name}: cannot read it: {error.strerror}; {CURE}") from None
    except ValueError as error:
        raise ValueError(f"profile {name}: not JSON: {error}; {CURE}") from None
    values = _check_keys(name, "", loaded, Hardware)
    if not isinstance(values["rates"], list) or not isinstance(values["sources"], dict):
        raise ValueError(f"profile {name}: rates must be a list, sources an object; {CURE}")
    rows = (
        _check_keys(name, f"rates[{index}].", row, Rates)
        for index, row in enumerate(values["rates"])
    )
    return Hardware(**{**values, "rates": tuple(Rates(**row) for row in rows)})


def known_profiles() -> list[str]:
    """Names of the profiles that there are, the user's own among them, in order."""
    folders = (own_profiles(), PROFILES)
    return sorted({entry.stem for folder in folders for entry in folder.glob("*.json")})


def _check_keys(
    name: str, where: str, loaded: object, kind: type[Hardware | Rates]
) -> dict[str, Any]:
    """The object's values by field, exactly those of `kind`. Raises ValueError naming the key."""
    if not isinstance(loaded, dict):
        place = where.rstrip(".") or "the file"
        raise ValueError(f"profile {name}: {place} is not a JSON object; {CURE}")
    expected = {one.name for one in fields(kind)}
    for word, keys in (("missing", expected - set(loaded)), ("unknown", set(loaded) - expected)):
        if keys:
            named = ", ".join(where + key for key in sorted(keys))
            raise ValueError(f"profile {name}: {word} {named}; {CURE}")
    return loaded

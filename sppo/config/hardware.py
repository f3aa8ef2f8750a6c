"""One rank's hardware: the rates it reaches, its links and its memories. Imports no torch.

Rates are FLOP/s in the convention of `sppo.cost_model.flops`: attention counts the pairs a causal
model needs, a backward counts twice its forward (a flash backward really computes 2.5 times). The
fields and the sources of the committed numbers: docs/hardware.md.
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

import msgspec

from sppo.config.errors import NotSupported
from sppo.config.folders import in_checkout, user_folder
from sppo.config.sizes import DTYPE_BYTES, Dtype

PROFILES = Path(__file__).parent / "hardware_profiles"
"""The folder of the committed profiles."""

CURE = "`sppo-bench profile` measures one"

Kind = Literal["measured", "assumed"]

Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
PositiveCount = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class UnknownHardware(NotSupported, ValueError):
    """No profile has that name: wrong input, and for a workload something not there."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s reached by a subsequence of `tokens` tokens a device (a row of a profile).

    `tokens` are those of the subsequence divided by the ranks that share its heads and weights.
    The dense rates include the block's norms, activation functions and residual additions.
    """

    tokens: PositiveCount
    dense_forward: Positive
    dense_backward: Positive
    attention_forward: Positive
    attention_backward: Positive


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One rank's hardware: achieved rates by subsequence length, links, memories, and sources.

    - `kind`: "measured" by this project on such a machine, or "assumed" from datasheets and
      published measurements; then `sources` names the origin of every number, by field.
    - `peak_flops_per_second`: dense datasheet peak of `dtype`; on a CPU the best matrix product.
    - `memory_bytes_per_second`: reached by element-wise kernels, bytes read and written together.
    - `device_memory_bytes`: as the driver reports it; `reserve_bytes` of it (context, libraries,
      workspaces) no plan may use. On a CPU one memory is both tiers, and both fields say the same.
    - Untracked bytes of libraries (`memory_model/untracked.py`): `context_bytes` of the driver, in
      the reserve; `kernel_code_bytes` of one kernel for one shape; `workspace_bytes` of the matrix
      library; `communicator_bytes` of a group of ranks; `connection_bytes` of one way between two;
      `process_bytes` lost to the allocator's rounding.
    - `d2h_`, `h2d_bytes_per_second`: one rank's, while all ranks of its node copy.
    - `p2p_`, `internode_`: one rank's messages inside a node, and between nodes.
    - `collective_bytes_per_second`: bus bandwidth of all-gather and reduce-scatter in a node.
    - `overlapped_copies`: False on a CPU, where a copy takes the compute's time.

    Raises ValueError naming profile, field and cure where a value is missing, of another type, NaN,
    infinite, negative, or zero where it must be positive. Only a CPU may lack internode numbers.
    """

    name: str
    kind: Kind
    source: str
    sources: Mapping[str, str] = field(hash=False)
    device: str
    dtype: Dtype | Literal["float16"]
    rates: tuple[Rates, ...]
    layer_overhead_seconds: NotNegative
    peak_flops_per_second: Positive
    memory_bytes_per_second: Positive
    device_memory_bytes: PositiveCount
    reserve_bytes: Count
    context_bytes: Count
    kernel_code_bytes: Count
    workspace_bytes: Count
    communicator_bytes: Count
    connection_bytes: Count
    process_bytes: Count
    host_memory_bytes_per_rank: PositiveCount
    ranks_per_node: PositiveCount
    d2h_bytes_per_second: Positive
    h2d_bytes_per_second: Positive
    p2p_bytes_per_second: Positive
    p2p_latency_seconds: NotNegative
    collective_bytes_per_second: Positive
    internode_bytes_per_second: Positive | None
    internode_latency_seconds: NotNegative | None
    overlapped_copies: bool

    def __post_init__(self) -> None:
        _check_values(self.name, msgspec.to_builtins(self))
        if self.reserve_bytes >= self.device_memory_bytes:
            self._refuse("reserve_bytes", f"{self.reserve_bytes}, not less than the device memory")
        if self.context_bytes > self.reserve_bytes:
            self._refuse("context_bytes", f"{self.context_bytes}, more than the reserve")
        if self._lengths != sorted(set(self._lengths)):
            self._refuse("rates", f"ordered {self._lengths}, not ascending by tokens")
        for name in INTERNODE:
            if getattr(self, name) is None and self.device != "cpu":
                self._refuse(name, "missing")
        numbers = (*NUMBERS, *RATE_KINDS)
        for name in sorted(self.sources.keys() - set(numbers)):
            self._refuse(f"sources.{name}", "the source of no number")
        for name in numbers if self.kind == "assumed" else self.sources:
            if not self.sources.get(name):
                self._refuse(f"sources.{name}", "missing: an assumed number names its origin")

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of the dtype that the rates are for."""
        return DTYPE_BYTES[self.dtype]

    @property
    def usable_device_bytes(self) -> int:
        """Bytes of device memory that a plan may fill."""
        return self.device_memory_bytes - self.reserve_bytes

    @cached_property
    def _lengths(self) -> list[int]:
        return [row.tokens for row in self.rates]

    def rate(self, tokens: int, kind: str) -> float:
        """FLOP/s at that subsequence length: linear between the known lengths, flat outside."""
        key = tokens, kind
        known = self._known_rates.get(key)
        if known is None:
            known = self._known_rates[key] = self._rate(tokens, kind)
        return known

    def rates_at(self, tokens: Any, kind: str) -> Any:
        """`rate` of an array of lengths, as an array."""
        import numpy as np

        return np.interp(tokens, self._lengths, [getattr(row, kind) for row in self.rates])

    @cached_property
    def _known_rates(self) -> dict[tuple[int, str], float]:
        return {}

    def _rate(self, tokens: int, kind: str) -> float:
        above = bisect_right(self._lengths, tokens)
        low, high = self.rates[max(above - 1, 0)], self.rates[min(above, len(self.rates) - 1)]
        low_rate, high_rate = getattr(low, kind), getattr(high, kind)
        if low is high:
            return float(low_rate)
        weight = (tokens - low.tokens) / (high.tokens - low.tokens)
        return float(low_rate + weight * (high_rate - low_rate))

    def _refuse(self, field: str, problem: str) -> NoReturn:
        raise ValueError(f"profile {self.name}: {field} is {problem}; {CURE}")


def _file_type(kind: type, **nested: object) -> type[msgspec.Struct]:
    """A Struct with the fields of a dataclass, which refuses unknown ones."""
    hints = {**get_type_hints(kind, include_extras=True), **nested}
    return msgspec.defstruct(
        f"{kind.__name__}File", list(hints.items()), kw_only=True, forbid_unknown_fields=True
    )


_RatesFile = _file_type(Rates)
_RatesFiles = Annotated[list[_RatesFile], msgspec.Meta(min_length=1)]  # type: ignore[valid-type]
_HardwareFile = _file_type(Hardware, rates=_RatesFiles)

RATE_KINDS = tuple(name for name in _RatesFile.__struct_fields__ if name != "tokens")
TEXTS = ("name", "kind", "source", "sources", "device", "dtype", "rates", "overlapped_copies")
NUMBERS = tuple(name for name in _HardwareFile.__struct_fields__ if name not in TEXTS)
"""Every number of a profile outside its rates."""

INTERNODE = ("internode_bytes_per_second", "internode_latency_seconds")


def _check_values(name: str, values: object) -> None:
    """Raise ValueError naming profile, field and cure where the types refuse a value."""
    try:
        msgspec.convert(values, _HardwareFile)
    except msgspec.ValidationError as error:
        raise ValueError(f"profile {name}: {error}; {CURE}") from None


def own_profiles() -> Path:
    """Where new profiles are saved: in a checkout among the committed ones, else with the user."""
    return PROFILES if in_checkout() else user_folder() / "hardware_profiles"


def load_hardware(name: str) -> Hardware:
    """A known profile by its name, or the profile of a file by a path that ends in `.json`.

    The user's own come before the committed ones. A profile has the name of its file, whatever the
    name inside: a changed copy must not pass for the original. Raises UnknownHardware (a
    ValueError) listing the known names. Raises ValueError in one line where the file is missing or
    no JSON, or where its fields are not those of a profile.
    """
    path = Path(name)
    if path.suffix != ".json":
        path = own_profiles() / f"{name}.json"
        if not path.is_file():
            path = PROFILES / path.name
        if not path.is_file():
            raise UnknownHardware(
                f"no hardware profile {name!r}; there are: {', '.join(known_profiles())}, "
                f"or a path to a .json file; {CURE}"
            )
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"profile {name}: cannot read it: {error.strerror}; {CURE}") from None
    except ValueError as error:
        raise ValueError(f"profile {name}: not JSON: {error}; {CURE}") from None
    _check_values(name, loaded)
    return msgspec.convert({**loaded, "name": path.stem}, Hardware)


def committed_profiles() -> list[str]:
    """Names of the profiles that come with the suite, in order."""
    return sorted(entry.stem for entry in PROFILES.glob("*.json"))


def known_profiles() -> list[str]:
    """Names of the profiles that there are, the user's own among them, in order."""
    return sorted({*committed_profiles(), *(entry.stem for entry in own_profiles().glob("*.json"))})

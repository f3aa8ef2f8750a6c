"""The committed hardware profiles side by side."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.docs.markdown import gib, rows_table
from sppo.config.hardware import PROFILES, Hardware, load_hardware

TERA = 1e12
GIGA = 1e9
TOKENS = 8192
"""Length of a subsequence on one device, at which the rates are shown."""


def profiles() -> str:
    """One column per committed profile, one row per number. Rates are those at `TOKENS`."""
    columns = [load_hardware(path.stem) for path in sorted(PROFILES.glob("*.json"))]
    columns.sort(key=lambda hardware: hardware.peak_flops_per_second)
    rows = [[name, *(cell(hardware) for hardware in columns)] for name, cell in _ROWS]
    return rows_table(["", *(hardware.name for hardware in columns)], rows)


def _rates(kind: str) -> Callable[[Hardware], str]:
    def cell(hardware: Hardware) -> str:
        rates = [rates for rates in hardware.rates if rates.tokens <= TOKENS][-1]
        forward, backward = (getattr(rates, f"{kind}_{way}") for way in ("forward", "backward"))
        return f"{_three_digits(forward / TERA)} / {_three_digits(backward / TERA)}"

    return cell


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _link(speed: float | None, latency: float | None) -> str:
    if speed is None or latency is None:
        return "none"
    return f"{speed / GIGA:.3g}; {latency * 1e6:.0f}"


_ROWS: tuple[tuple[str, Callable[[Hardware], str]], ...] = (
    ("kind", lambda hardware: hardware.kind),
    ("dtype", lambda hardware: hardware.dtype),
    ("peak, TFLOP/s", lambda hardware: f"{hardware.peak_flops_per_second / TERA:.4g}"),
    (f"dense forward / backward at {TOKENS:,} tokens, TFLOP/s", _rates("dense")),
    (f"attention forward / backward at {TOKENS:,} tokens, TFLOP/s", _rates("attention")),
    (
        "memory, read and written, GB/s",
        lambda hardware: f"{hardware.memory_bytes_per_second / GIGA:,.0f}",
    ),
    ("device memory", lambda hardware: gib(hardware.device_memory_bytes)),
    ("reserve", lambda hardware: gib(hardware.reserve_bytes) or "0"),
    ("host memory of a rank", lambda hardware: gib(hardware.host_memory_bytes_per_rank)),
    ("ranks of a node", lambda hardware: str(hardware.ranks_per_node)),
    (
        "D2H / H2D of one rank, all ranks of its node copying, GB/s",
        lambda hardware: (
            f"{hardware.d2h_bytes_per_second / GIGA:.3g} / "
            f"{hardware.h2d_bytes_per_second / GIGA:.3g}"
        ),
    ),
    (
        "P2P in a node, GB/s; us",
        lambda hardware: _link(hardware.p2p_bytes_per_second, hardware.p2p_latency_seconds),
    ),
    (
        "collective bus bandwidth, GB/s",
        lambda hardware: f"{hardware.collective_bytes_per_second / GIGA:.3g}",
    ),
    (
        "between nodes, one rank, GB/s; us",
        lambda hardware: _link(
            hardware.internode_bytes_per_second, hardware.internode_latency_seconds
        ),
    ),
    (
        "launch overhead of a layer, us",
        lambda hardware: f"{hardware.layer_overhead_seconds * 1e6:g}",
    ),
)

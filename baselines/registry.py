"""Names of systems, and their adapters, imported on first use.

Another installed package brings a system by an entry point, its name -> its adapter:

    [project.entry-points."sppo_suite.systems"]
    my_system = "my_package.adapter:ADAPTER"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from baselines.protocol import Adapter, Planner

GROUP = "sppo_suite.systems"

_ADAPTERS = {
    "sppo": "baselines.sppo:ADAPTER",
    "megatron": "baselines.megatron.adapter:ADAPTER",
    "megatron-ours": "baselines.megatron.ours:ADAPTER",
    "megatron-te": "baselines.megatron.te:ADAPTER",
    "deepspeed": "baselines.deepspeed.adapter:ADAPTER",
    "deepspeed-ours": "baselines.deepspeed.ours:ADAPTER",
    "native": "baselines.native.adapter:ADAPTER",
    "reference": "baselines.reference:ADAPTER",
}

_REGISTERED: dict[str, Adapter] = {}

SYSTEMS = (
    *("deepspeed", "deepspeed-ours", "megatron", "megatron-ours", "megatron-te", "native"),
    "sppo",
)
"""The systems that are compared, all against `reference`."""


def installed() -> tuple[str, ...]:
    """Systems of other packages, by name. One with the name of an own system is left out."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)} - _ADAPTERS.keys()))


def register(name: str, adapter: Adapter) -> None:
    """Add a system in this process alone; launched ranks do not have it.

    Raises ValueError where the name is taken.
    """
    if name in (*_ADAPTERS, *_REGISTERED, *installed()):
        raise ValueError(f"there is a system {name!r} already: take another name")
    _REGISTERED[name] = adapter


def load(name: str) -> Adapter:
    """The adapter of that name.

    Raises ValueError with the known names, or with the fault of another package's adapter.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    points: tuple[EntryPoint, ...]
    if name in _ADAPTERS:  # first: to read all installed packages takes long
        points = (EntryPoint(name=name, value=_ADAPTERS[name], group=GROUP),)
    else:
        points = tuple(entry_points(group=GROUP, name=name))
    if not points:
        known = ", ".join(sorted((*_ADAPTERS, *_REGISTERED, *installed())))
        raise ValueError(f"unknown system {name!r}; known: {known}")
    adapter = points[0].load()
    if not isinstance(adapter, Adapter):
        raise ValueError(f"{points[0].value} is no adapter: see baselines/protocol.py")
    if adapter.name != name:
        raise ValueError(f"{points[0].value} is called {adapter.name!r}, its entry point {name!r}")
    return adapter


def load_planner(name: str) -> Planner:
    """The adapter of that name. Raises ValueError where it is no planner."""
    adapter = load(name)
    if not isinstance(adapter, Planner):
        raise ValueError(f"{name} makes no plans: its settings are given or searched")
    return adapter

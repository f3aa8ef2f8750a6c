"""Whether the libraries of a system are those with which its settings were chosen."""

from __future__ import annotations

from collections.abc import Mapping

from baselines import registry


def other_libraries(system: str, versions: Mapping[str, str]) -> str:
    """ "stale: deepspeed 0.19.7, here 0.19.8", or "" with the same versions."""
    here = registry.load(system).versions()
    known = {name: versions[name] for name in here if name in versions}
    changed = [
        f"{name} {was}, here {here[name]}" for name, was in known.items() if was != here[name]
    ]
    return f"stale: {'; '.join(changed)}" if changed else ""

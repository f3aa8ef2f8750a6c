"""`sppo-bench env`: the machine of the records."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.commands.flags import Json
from benchmarks.commands.output import show
from benchmarks.environment import describe_environment


@dataclass(frozen=True, kw_only=True)
class Env(Json):
    """Describe this machine as records do: versions, processor, commit.

    Example: sppo-bench env --json
    """

    def run(self) -> int:
        """Show this machine; the exit code."""
        described = describe_environment()
        lines = [f"{name + ':':<14}{_words(value)}" for name, value in described.items()]
        show(self.json, described, "\n".join(lines))
        return 0


def _words(value: object) -> str:
    """A list by semicolons, an object by commas."""
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)

"""`sppo-bench env`: the machine of the records."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.commands.flags import Json
from benchmarks.commands.output import show_json


@dataclass(frozen=True, kw_only=True)
class Env(Json):
    """Describe this machine as records do: versions, processor, commit.

    Example: sppo-bench env --json
    """

    def run(self) -> int:
        """Show this machine; the exit code."""
        from benchmarks.environment import describe_environment

        described = describe_environment()
        if self.json:
            show_json(described)
            return 0
        for name, value in described.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {item}" for key, item in value.items())
            print(f"{name + ':':<14}{value}")
        return 0

"""A system of another package: plain torch under another name, with two points in its grid."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.reference import ReferenceAdapter
from sppo.config.workload import Workload


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    degree: int = 1


class ToyAdapter(ReferenceAdapter):
    name = "toy"
    settings_type = ToySettings

    def grid(self, workload: Workload) -> tuple[ToySettings, ...]:  # type: ignore[override]
        return (ToySettings(), ToySettings(degree=2))

    def describe(self, settings: ToySettings) -> str:  # type: ignore[override]
        return f"degree {settings.degree}"


ADAPTER = ToyAdapter()

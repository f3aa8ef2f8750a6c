"""Exports, checked against the formats that the other tools document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from benchmarks.cli import main
from benchmarks.regression.history import store
from benchmarks.regression.history.entry import Entry
from tests.unit.history_cases import MACHINE, OTHER_MACHINE, entry, metric

Number = int | float
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Measure = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class ActionEntry(msgspec.Struct, forbid_unknown_fields=True):
    """`BenchmarkResult` of src/extract.ts in benchmark-action/github-action-benchmark, v1.22.0.

    zod coerces each field; here the types are those of the README: name, unit and value, and
    optionally range and extra.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    unit: str
    value: Number
    range: str | msgspec.UnsetType = msgspec.UNSET
    extra: str | msgspec.UnsetType = msgspec.UNSET


class BmfMetric(msgspec.Struct, forbid_unknown_fields=True):
    """A metric of https://bencher.dev/bmf.json: numbers, of which `value` is required."""

    value: Number
    lower_value: Number | msgspec.UnsetType = msgspec.UNSET
    upper_value: Number | msgspec.UnsetType = msgspec.UNSET


Bmf = dict[Name, dict[Measure, BmfMetric]]
"""https://bencher.dev/bmf.json, with the lengths of its reference page. The pattern of both keys is
`.+`: not empty, no line break."""

RUN = (
    metric(1.5, low=1.4, high=1.7),
    metric(127_997_160, "tiny-cpu-136MiB/sppo/peak_device_bytes", unit="bytes", exact=True),
    metric(1.28, "tiny-cpu-136MiB/deepspeed/sppo_speed_up", unit="ratio", better="more"),
    metric(9.0, "tiny-cpu-136MiB/deepspeed/step_seconds", void="unsettled"),
)


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    store.append(tmp_path, entry(1, metric(9.0), metric(1.0, "gone/step_seconds")))
    store.append(tmp_path, entry(2, *RUN))
    return ["--history", str(tmp_path)]


def exported(folder: list[str], *flags: str) -> bytes:
    path = Path(folder[1]) / "exported.json"
    assert main(["history", "export", "--format", *flags, str(path), *folder]) == 0
    return path.read_bytes()


def test_the_actions_file_has_the_metrics_of_one_direction(folder: list[str]) -> None:
    """Of the newest commit alone, without void numbers."""
    data = exported(folder, "github-action-benchmark")
    smaller = msgspec.json.decode(data, type=list[ActionEntry])
    assert [(each.value, each.unit) for each in smaller] == [(1.5, "s"), (127_997_160, "bytes")]
    assert smaller[0].range == "± 0.15"
    assert MACHINE.id in str(smaller[0].extra)
    data = exported(folder, "github-action-benchmark", "--better", "more")
    (bigger,) = msgspec.json.decode(data, type=list[ActionEntry])
    assert bigger.value == 1.28


def test_benchers_file_has_latencies_in_nanoseconds(folder: list[str]) -> None:
    made = msgspec.json.decode(exported(folder, "bencher"), type=Bmf)
    assert list(made) == ["tiny-cpu-136MiB/sppo", "tiny-cpu-136MiB/deepspeed"]
    assert set(made["tiny-cpu-136MiB/sppo"]) == {"latency", "peak-device-bytes"}
    latency = made["tiny-cpu-136MiB/sppo"]["latency"]
    assert latency.value == pytest.approx(1.5e9)
    assert latency.upper_value == pytest.approx(1.7e9)
    names = [*made, *(measure for measures in made.values() for measure in measures)]
    assert all(re.fullmatch(".+", name) for name in names)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (b'[{"name": "a", "unit": "s"}]', list[ActionEntry]),
        (b'[{"name": "a", "unit": "s", "value": "1"}]', list[ActionEntry]),
        (b'{"a": {"latency": {"lower_value": 1}}}', Bmf),
        (b'{"a": {"latency": 1}}', Bmf),
    ],
)
def test_the_schemas_refuse_what_the_tools_refuse(wrong: bytes, kind: type) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=kind)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(1, metric(1.0), void="throttled")], "nothing to export"),
        (
            [entry(1, metric(1.0)), entry(1, metric(1.0), machine=OTHER_MACHINE)],
            "2 machines: name one by --machine: a-processor",
        ),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    entries: list[Entry], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in entries:
        store.append(tmp_path, each)
    path = tmp_path / "x.json"
    arguments = ["history", "export", "--format", "bencher", str(path), "--history", str(tmp_path)]
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not path.exists()

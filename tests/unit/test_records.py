from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.job import Accounted, Kernels, Memory, StepReport
from benchmarks.records import record as records
from benchmarks.records import store
from benchmarks.records.record import Flops, Peak, Record, StepRecord, Text
from benchmarks.records.store import RecordError
from tests.unit.records_factory import record

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "record.md"


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sppo-1" / "record.json"
    before = record(accounted=[Accounted(flops={"aten.mm": 3}), None], plan={"n": 4})
    records.write(before, path)
    assert records.read(path) == before
    assert [child.name for child in path.parent.iterdir()] == ["record.json"]


def test_a_value_that_is_not_finite_is_null_and_comes_back_as_none(tmp_path: Path) -> None:
    report = StepReport(
        phase="measured", tokens=2, seconds=0.1, loss=float("nan"), grad_norm=float("inf")
    )
    path = tmp_path / "record.json"
    records.write(record(steps=[StepRecord.of(report)]), path)
    assert records.read(path).steps[0].loss is None
    assert records.read(path).steps[0].grad_norm is None


def test_the_spelling_of_the_keys() -> None:
    keys = set(msgspec.json.decode(store.to_json(record())))
    asked = {
        *("schema", "system", "row", "status", "warmup_steps", "steps", "tokens_per_step"),
        *("tokens_per_second_per_rank", "flops", "mfu_causal", "memory", "device_memory_bytes"),
        *("settings", "grid", "environment"),
    }
    assert asked <= keys


@pytest.mark.parametrize(
    "kind", [Record, StepRecord, Flops, Peak, Text, Memory, Accounted, Kernels]
)
def test_the_document_names_every_key(kind: type[msgspec.Struct]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [key for key in kind.__struct_encode_fields__ if f"`{key}`" not in text]
    assert not missing, f"docs/record.md does not explain {missing}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"schema": "sppo-record/99"}', "is newer than"),
        (b'{"schema": "sppo-record/0"}', "is older than"),
        (b'{"schema": "another/1"}', "expected 'sppo-record/1'"),
        (b'{"row": "SPPO"}', "not a sppo-record/1 file"),
        (b'{"schema": "sppo-record/1", "row": 3}', "damaged"),
        (b'{"schema": "sppo-rec', "not a sppo-record/1 file"),
        (b"", "not a sppo-record/1 file"),
        (b"\xff\xfe\x00", "not a sppo-record/1 file"),
    ],
)
def test_a_file_that_is_no_record_gets_one_clear_line(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=words) as caught:
        records.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_without_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no folder"):
        records.read_all(tmp_path / "absent")
    with pytest.raises(RecordError, match=r"no \*/record.json"):
        records.read_all(tmp_path)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    store.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

"""JSONL with a named field, and text as ids of a Hugging Face tokenizer."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.worker.tokens import token_file
from tests.unit.data_files import flat, workload, write_megatron

RECORDS = [
    {"id": 1, "text": "first é"},
    {"text": "second", "body": "2nd"},
    {"text": "third and last", "body": "3rd"},
]
TEXT = "first ésecondthird and last".encode()


def write_jsonl(path: Path, records: list[dict[str, object]] | None = None) -> Path:
    lines = [json.dumps(record) for record in records or RECORDS]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def read(folder: Path, data: object, **options: object) -> bytes:
    token_file(workload(data, **options), 1, folder / "tokens.npy")  # type: ignore[arg-type]
    return bytes(flat(folder / "tokens.npy").astype(np.uint8))


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "JSONL"])
def test_jsonl_trains_on_its_text(tmp_path: Path, ending: str) -> None:
    path = write_jsonl(tmp_path / f"corpus.{ending}")
    text = token_file(workload(path), 1, tmp_path / "tokens.npy")
    assert bytes(flat(tmp_path / "tokens.npy").astype(np.uint8)) == TEXT[:16]
    assert text.sha256 == hashlib.sha256(TEXT[:16]).hexdigest()
    assert text.documents_crossed == 2
    assert text.tokenizer == "bytes"
    assert "field 'text'" in text.description


def test_a_named_field_whatever_the_ending(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "corpus.txt", [{"body": "abcdefgh", "text": "no"}] * 2)
    assert read(tmp_path, path, data_field="body") == b"abcdefghabcdefgh"


def test_a_byte_order_mark_and_crlf_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "abcdefgh"}\r\n{"text": "ijklmnop"}')
    assert read(tmp_path, tmp_path / "c.jsonl") == b"abcdefghijklmnop"


def test_half_a_character_of_json_becomes_a_question_mark(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "abcdefg\\ud83d"}\n')
    assert read(tmp_path, tmp_path / "c.jsonl") == b"abcdefg?" * 2


def test_jsonl_in_a_folder(tmp_path: Path) -> None:
    """By its ending; other JSON is text there, and with a named field only JSONL counts."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.json").write_text("[\n0\n]\n")
    write_jsonl(folder / "b.jsonl", [{"text": "1234567890"}])
    (folder / "c.md").write_text("prose")
    assert read(tmp_path, folder) == b"[\n0\n]\n1234567890"
    (folder / "a.json").write_text('{"text": "abcdef"}')
    assert read(tmp_path, folder, data_field="text") == b"abcdef1234567890"


WRONG = {
    "pretty.json": "pretty.json, line 1: no JSON .* write one object a line",
    "array.json": "line 1: no JSON object",
    "broken.jsonl": "line 2: no JSON",
    "deep.jsonl": "line 1: no JSON",
    "fields.jsonl": r"line 1: no field 'text'; name one of its fields \(body, meta\)",
    "chat.jsonl": "line 1: 'text' is no text; name another field",
    "utf16.jsonl": "is binary",
    "corpus.jsonl.gz": "compressed by gzip; decompress it",
    "corpus.txt.zst": "compressed by zstd",
    "corpus.parquet": "a Parquet file; write its text as JSONL",
    "folder": "compressed by xz",
    "pair": r"c\.bin is binary .* give it alone: .*c\.bin$",
}


def test_text_that_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "fields.jsonl", [{"body": "x", "meta": 1}])
    write_jsonl(tmp_path / "chat.jsonl", [{"text": [{"role": "user"}]}])
    (tmp_path / "pretty.json").write_text(json.dumps(RECORDS, indent=1))
    (tmp_path / "array.json").write_text(json.dumps(RECORDS))
    (tmp_path / "broken.jsonl").write_text('{"text": "abc"}\n{"text": "abc\n')
    (tmp_path / "deep.jsonl").write_text('{"text":' * 100_000)
    (tmp_path / "utf16.jsonl").write_text('{"text": "abcdefgh"}', encoding="utf-16")
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}' * 9))
    (tmp_path / "corpus.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(90))
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1" + bytes(90))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.xz").write_bytes(b"\xfd7zXZ\x00" + bytes(90))
    (tmp_path / "pair").mkdir()
    write_megatron(tmp_path / "pair" / "c", [[1, 2, 3]], "int32")
    for name, words in WRONG.items():
        with pytest.raises(ValueError, match=words) as caught:
            token_file(workload(tmp_path / name), 1, tmp_path / "tokens.npy")
        assert "\n" not in str(caught.value)


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.data.texts.LONGEST_RECORD_BYTES", 64)
    (tmp_path / "c.jsonl").write_text('{"text": "' + "a" * 100)
    with pytest.raises(ValueError, match="line 1 exceeds 64 bytes; write one object a line"):
        read(tmp_path, tmp_path / "c.jsonl")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Words of our own, cut after two tokens and padded to four, as a fine-tuned model's file."""
    names = ["?", "first", "é", "second", "third", "and", "last"]
    words = {word: number for number, word in enumerate(names)}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.enable_truncation(max_length=2)
    made.enable_padding(length=4)
    (tmp_path / "model").mkdir()
    made.save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model" / "tokenizer.json"


def test_all_text_becomes_ids_of_the_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    """Neither truncated nor padded, whatever the file says. Its folder names the file too."""
    path = write_jsonl(tmp_path / "corpus.jsonl")
    for name in (tokenizer, tokenizer.parent):
        text = token_file(
            workload(path, sequence_tokens=5, tokenizer=str(name)), 1, tmp_path / "tokens.npy"
        )
        assert flat(tmp_path / "tokens.npy").tolist() == [1, 2, 3, 4, 5, 6] * 2
        assert (text.tokens_read, text.documents_crossed) == (6, 2)
        assert text.tokenizer_sha256 == hashlib.sha256(tokenizer.read_bytes()).hexdigest()
        assert (text.tokenizer or "").startswith("tokenizer.json, tokenizers ")


def test_a_character_between_two_pieces_stays_whole(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.data.texts.PIECE_BYTES", 1)
    (tmp_path / "a.txt").write_text("é\n" * 8)
    read(tmp_path, tmp_path / "a.txt", tokenizer=str(tokenizer))
    assert flat(tmp_path / "tokens.npy").tolist() == [2] * 16


def test_the_standard_library_as_ids(tmp_path: Path, tokenizer: Path) -> None:
    text = token_file(workload("stdlib", tokenizer=str(tokenizer)), 1, tmp_path / "tokens.npy")
    assert "standard library" in text.description
    assert "tokenizer.json" in text.description


def test_tokenizers_that_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 20)
    (tmp_path / "a.txt").write_text("first " * 20)
    (tmp_path / "empty.json").write_text("{}")
    Tokenizer(models.WordLevel({"second": 0}, unk_token="?")).save(str(tmp_path / "unk.json"))
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\xff")
    np.save(tmp_path / "ids.npy", np.arange(40))
    cases = [
        ("latin.txt", tokenizer, "reads UTF-8, and byte 0xe9"),
        ("a.txt", tmp_path / "empty.json", "the tokenizer empty.json is none"),
        ("a.txt", tmp_path / "unk.json", "has no ids for the text"),
        ("a.txt", tmp_path / "spiece.model", "the tokenizer spiece.model is none"),
        ("a.txt", tmp_path / "absent.json", "the tokenizer absent.json cannot be read"),
        ("a.txt", tmp_path, "the tokenizer tokenizer.json cannot be read"),
        ("ids.npy", tokenizer, "holds token ids already; leave --tokenizer"),
    ]
    for name, given, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            read(tmp_path, tmp_path / name, tokenizer=str(given))
        assert "\n" not in str(caught.value)


def test_a_panic_of_the_tokenizer_is_one_line(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's Rust code panics with a class of its own. Ctrl-C is no panic."""
    (tmp_path / "a.txt").write_text("first " * 20)
    panic = type("PanicException", (BaseException,), {})
    for error, expected in ((panic("overflow"), ValueError), (KeyboardInterrupt(), None)):

        def from_buffer(content: bytes, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("tokenizers.Tokenizer.from_buffer", from_buffer)
        with pytest.raises(expected or type(error)):
            read(tmp_path, tmp_path / "a.txt", tokenizer=str(tokenizer))

"""Real text in, exact tokens out, and a clear word for everything that cannot be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.worker.tokens import map_tokens, token_file
from tests.unit.data_files import workload


def test_a_text_file_is_read_as_consecutive_bytes(tmp_path: Path) -> None:
    content = bytes(range(32, 112))
    (tmp_path / "a.txt").write_bytes(content)
    source = token_file(workload(str(tmp_path / "a.txt")), 3, tmp_path / "tokens.npy")
    tokens = map_tokens(tmp_path / "tokens.npy")
    assert tokens.shape == (3, 2, 8)
    assert tokens.dtype == np.int32
    assert bytes(tokens.reshape(-1).astype(np.uint8)) == content[:48]
    assert source.sha256 == hashlib.sha256(content[:48]).hexdigest()


def test_a_short_text_wraps_round(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    source = token_file(workload(str(tmp_path / "a.txt")), 2, tmp_path / "tokens.npy")
    flat = map_tokens(tmp_path / "tokens.npy").reshape(-1)
    assert bytes(flat.astype(np.uint8)) == (b"0123456789" * 4)[:32]
    assert source.sha256 == hashlib.sha256(b"0123456789").hexdigest()


def test_a_folder_is_read_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\0\0\0")
    (folder / "c.txt").write_bytes(b"third---")
    (folder / "b" / "x.txt").write_bytes(b"second--")
    (folder / "a.txt").write_bytes(b"first---")
    token_file(workload(str(folder)), 1, tmp_path / "tokens.npy")
    flat = map_tokens(tmp_path / "tokens.npy").reshape(-1)
    assert bytes(flat.astype(np.uint8)) == b"first---second--"


def test_the_standard_library_is_python_and_the_same_every_time(tmp_path: Path) -> None:
    first = token_file(workload("stdlib", sequence_tokens=500), 2, tmp_path / "one.npy")
    second = token_file(workload("stdlib", sequence_tokens=500), 2, tmp_path / "two.npy")
    assert first == second
    assert "standard library" in first.description
    text = bytes(map_tokens(tmp_path / "one.npy").reshape(-1).astype(np.uint8))
    assert b"import" in text


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_raw_token_files_name_their_type(tmp_path: Path, dtype: str) -> None:
    ids = np.arange(100, dtype=dtype)
    ids.tofile(tmp_path / "ids.bin")
    source = token_file(workload(f"{tmp_path / 'ids.bin'}:{dtype}"), 1, tmp_path / "tokens.npy")
    assert map_tokens(tmp_path / "tokens.npy").reshape(-1).tolist() == list(range(16))
    assert source.sha256 == hashlib.sha256(ids[:16].tobytes()).hexdigest()


def test_numpy_token_files(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(40, dtype=np.uint16).reshape(4, 10))
    token_file(workload(str(tmp_path / "ids.npy")), 1, tmp_path / "tokens.npy")
    assert map_tokens(tmp_path / "tokens.npy").reshape(-1).tolist() == list(range(16))


def test_words_for_users(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"1234567")
    (tmp_path / "binary").write_bytes(b"ab\0cd" * 20)
    (tmp_path / "odd.bin").write_bytes(b"123")
    (tmp_path / "false.npy").write_bytes(b"nothing of the kind")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "floats.npy", np.ones(40))
    np.save(tmp_path / "large.npy", np.full(40, 300, dtype=np.int64))
    np.save(tmp_path / "negative.npy", np.full(40, -1))
    cases = {
        "short.txt": "holds 7 tokens, one sequence needs 8; give a longer text",
        "binary": "binary .*name their type",
        "odd.bin:uint16": "3 bytes are no whole number of uint16",
        "false.npy": "not a numpy file",
        "floats.npy": "float64, not integers",
        "large.npy": "token id 300 is outside the vocabulary of 256 of model words",
        "negative.npy": "negative",
        "empty": "holds 0 tokens",
        "absent": "no such file or folder; give 'stdlib'",
        "absent.bin:uint16": "no such file",
    }
    before = {path.name for path in tmp_path.iterdir()}
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words) as caught:
            token_file(workload(str(tmp_path / name)), 1, tmp_path / "tokens.npy")
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing half-written"


def test_a_file_of_something_else_is_not_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.ones(3))
    with pytest.raises(ValueError, match="no token file of this suite"):
        map_tokens(tmp_path / "other.npy")

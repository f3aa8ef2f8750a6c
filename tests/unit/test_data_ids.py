"""Files of token ids as Megatron, nanoGPT, llm.c, dolma and numpy write them; wrong ones."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.worker.tokens import token_file
from tests.unit.data_files import CODES, flat, workload, write_llmc, write_megatron

DOCUMENTS = [[10, 11, 12], [20, 21, 22, 23, 24], [30], [40, 41, 42, 43, 44, 45, 46, 47, 48]]
IDS = [token for document in DOCUMENTS for token in document]


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("ending", [".bin", ".idx", ""])
def test_a_megatron_pair_by_any_of_its_names(tmp_path: Path, dtype: str, ending: str) -> None:
    write_megatron(tmp_path / "corpus.v1", DOCUMENTS, dtype)
    text = token_file(workload(f"{tmp_path}/corpus.v1{ending}"), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == IDS[:16]
    assert text.documents_crossed == 3
    assert text.tokens_read == 16
    assert text.tokenizer is None
    assert dtype in text.description


def test_megatron_core_writes_what_is_read(tmp_path: Path) -> None:
    """The library's own builder, with two sequences in a document and an empty document."""
    torch = pytest.importorskip("torch")
    builders = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    builder = builders.IndexedDatasetBuilder(str(tmp_path / "c.bin"), dtype=np.uint16)
    builder.add_document(torch.tensor([1, 2, 3, 4, 5]), [2, 3])
    builder.end_document()
    builder.add_document(torch.tensor([6, 7, 8]), [3])
    builder.finalize(str(tmp_path / "c.idx"))
    text = token_file(workload(tmp_path / "c.bin"), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == [*range(1, 9), *range(1, 9)]
    assert (text.tokens_read, text.documents_crossed) == (8, 1)


def test_sequences_out_of_order_are_gathered(tmp_path: Path) -> None:
    pair = write_megatron(tmp_path / "c", [[1] * 8, [2] * 8], "int32", places=[32, 0])
    token_file(workload(pair), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == [2] * 8 + [1] * 8


def test_only_the_sequences_that_are_needed_are_gathered(tmp_path: Path) -> None:
    pair = write_megatron(tmp_path / "c", [[number % 250] for number in range(5000)], "uint8")
    text = token_file(workload(pair, sequence_tokens=1499), 1, tmp_path / "tokens.npy")
    assert text.tokens_read == 3000
    assert text.documents_crossed == 2999
    assert flat(tmp_path / "tokens.npy").tolist() == [number % 250 for number in range(3000)]


def test_nanogpt_ids_with_the_vocabulary_of_meta(tmp_path: Path) -> None:
    np.array(IDS, dtype=np.uint16).tofile(tmp_path / "train.bin")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 65, "itos": {0: "a"}}))
    text = token_file(workload(tmp_path / "train.bin"), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == IDS[:16]
    assert "uint16" in text.description
    assert text.documents_crossed is None


class Planted:
    """A pickle that would leave a file behind if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["meta.pkl", "ids.npy", "objects.npy"])
def test_nothing_is_ever_unpickled(tmp_path: Path, name: str) -> None:
    planted = {"vocab_size": Planted(tmp_path / "executed")}
    if name == "objects.npy":
        np.save(tmp_path / name, np.array([planted] * 20), allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(planted))
    if name == "meta.pkl":
        np.array(IDS, dtype=np.uint16).tofile(tmp_path / "train.bin")
        token_file(workload(tmp_path / "train.bin"), 1, tmp_path / "tokens.npy")
    else:
        with pytest.raises(ValueError, match=r"pickle|Python objects"):
            token_file(workload(tmp_path / name), 1, tmp_path / "tokens.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, "uint16"), (20240801, 7, "uint32")]
)
def test_llmc_files_say_their_type(tmp_path: Path, magic: int, version: int, dtype: str) -> None:
    path = write_llmc(tmp_path / "train.bin", IDS, magic, version, dtype)
    text = token_file(workload(path), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == IDS[:16]
    assert dtype in text.description


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_are_read_row_by_row(tmp_path: Path, order: str) -> None:
    array = np.asarray(np.arange(60).reshape(5, 3, 4), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "ids.npy", array.astype(">u2"))
    token_file(workload(tmp_path / "ids.npy"), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == list(range(16))


READ_WRONGLY = [
    ("int32", "uint16", "int32"),
    ("int64", "uint16", "int64"),
    ("int64", "int32", "int64"),
    ("uint16", "uint8", "int16"),
    ("int32", "uint8", "int32"),
]


@pytest.mark.parametrize(("written", "named", "likely"), READ_WRONGLY)
def test_ids_read_too_narrow_name_the_likely_type(
    tmp_path: Path, written: str, named: str, likely: str
) -> None:
    np.arange(1, 101, dtype=written).tofile(tmp_path / "ids.raw")
    with pytest.raises(ValueError, match=f"as if {likely} ids.* name the type .*ids.raw:{likely}"):
        token_file(workload(f"{tmp_path / 'ids.raw'}:{named}"), 1, tmp_path / "tokens.npy")


def test_a_headerless_int32_bin_is_not_taken_for_nanogpt(tmp_path: Path) -> None:
    np.arange(1, 101, dtype=np.int32).tofile(tmp_path / "ids.bin")
    with pytest.raises(ValueError, match=r"every second id is 0 .*ids\.bin:int32$"):
        token_file(workload(tmp_path / "ids.bin"), 1, tmp_path / "tokens.npy")


def test_ids_above_65535_read_as_uint16_are_noticed(tmp_path: Path) -> None:
    """Every second id is 0 or 1 then, and all lie below a vocabulary of 128,256."""
    rng = np.random.default_rng(1)
    rng.integers(0, 128_000, 400, dtype=np.int32).tofile(tmp_path / "ids.raw")
    wrong = workload(f"{tmp_path / 'ids.raw'}:uint16", sequence_tokens=99, vocabulary=128_256)
    with pytest.raises(ValueError, match="as if int32 ids were read as uint16"):
        token_file(wrong, 1, tmp_path / "tokens.npy")


def test_ids_read_too_wide_name_the_type_that_fits(tmp_path: Path) -> None:
    np.arange(1, 101, dtype=np.uint16).tofile(tmp_path / "ids.raw")
    with pytest.raises(ValueError, match=r"outside the vocabulary .* name the type uint16"):
        token_file(workload(f"{tmp_path / 'ids.raw'}:int32"), 1, tmp_path / "tokens.npy")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64"])
def test_true_ids_are_not_taken_for_wrong_ones(tmp_path: Path, dtype: str) -> None:
    """Ids of one byte, constant ones, and many zeros."""
    for number, ids in enumerate(([0] * 100, [5] * 100, [0, 7, 0, 0, 9, 0, 0] * 20)):
        np.array(ids, dtype=dtype).tofile(tmp_path / "ids.raw")
        token_file(workload(f"{tmp_path / 'ids.raw'}:{dtype}"), 1, tmp_path / "t.npy")
        assert flat(tmp_path / "t.npy").tolist() == ids[:16], number


def cut(path: Path, by: int) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def plant(folder: Path) -> None:
    """One file for every way to be wrong."""
    ids = list(range(1, 41))
    write_megatron(folder / "lonely", [ids], "int32").unlink()
    cut(write_megatron(folder / "cut", [ids], "int32"), 4)
    cut(write_megatron(folder / "index", [ids, ids], "int32").with_suffix(".idx"), 20)
    write_megatron(folder / "outside", [ids[:8], ids[:8], ids], "uint8", places=[0, 9999, 16])
    write_megatron(folder / "typed", [ids], "int32")
    write_megatron(folder / "split", [[1.5] * 40], "float32")  # type: ignore[list-item]
    write_megatron(folder / "narrow", [[7, 0] * 40], "uint16")
    (folder / "old.idx").write_bytes(b"TNTIDX\0\0" + bytes(40))
    (folder / "old.bin").write_bytes(bytes(40))
    (folder / "other.idx").write_bytes(b"index of something else" * 9)
    (folder / "other.bin").write_bytes(bytes(40))
    coded = write_megatron(folder / "coded", [ids], "int32").with_suffix(".idx")
    coded.write_bytes(coded.read_bytes()[:17] + b"\x63" + coded.read_bytes()[18:])
    cut(write_llmc(folder / "short.bin", ids, 20240520, 1, "uint16"), 2)
    write_llmc(folder / "llama.bin", ids, 20240801, 3, "uint32")
    write_llmc(folder / "hellaswag.bin", ids, 20240522, 1, "uint16")
    write_llmc(folder / "gpt2_124M.bin", ids, 20240326, 3, "float32")
    write_llmc(folder / "headed.bin", ids, 20240520, 1, "uint16")
    np.savez(folder / "archive.npz", ids=np.arange(40))
    (folder / "archive.npz").rename(folder / "renamed.npy")
    np.savez(folder / "archive.npz", ids=np.arange(40))
    np.save(folder / "array.npy", np.arange(40))
    np.save(folder / "true.npy", np.ones(40, dtype=bool))
    np.save(folder / "none.npy", np.empty(0, dtype=np.int32))
    np.save(folder / "scalar.npy", np.int64(3))
    cut(folder / "array.npy", 8)
    np.save(folder / "whole.npy", np.arange(40))
    np.arange(40, dtype=np.uint16).tofile(folder / "dolma.npy")
    (folder / "prose.bin").write_text("Once upon a time, there was a file. " * 9)
    np.array(ids, dtype=np.uint16).tofile(folder / "known.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 16}))


WRONG = {
    "lonely.idx": "lonely.bin is missing",
    "lonely": "lonely.bin is missing",
    "cut.bin": "describes 160 bytes and its .bin has 156",
    "index.bin": "too few for 2 sequences; it is cut off",
    "outside.bin": "a place outside the .bin",
    "typed.bin:uint16": "its .idx says int32; give .*typed.bin, which",
    "split.bin": "float32 and not whole",
    "narrow.bin": "every second id is 0 .* write the file again",
    "old.bin": "index of old Megatron",
    "other.bin": "other.idx is no index of Megatron",
    "coded.bin": "type code 99",
    "short.bin": "its header says 40 uint16 tokens, 1,104 bytes, and it has 1,102",
    "llama.bin": "version 3 and no token file",
    "hellaswag.bin": "llm.c says it is an evaluation set",
    "gpt2_124M.bin": "llm.c says it is a checkpoint",
    "headed.bin:uint16": "header of llm.c, which says its type; give .*headed.bin$",
    "renamed.npy": "a zip archive .* save one array by numpy.save",
    "archive.npz": "a zip archive",
    "array.npy": "not a numpy file",
    "true.npy": "bool, not integers",
    "none.npy": "holds 0 tokens|not a numpy file",
    "scalar.npy": "holds 1 tokens",
    "whole.npy:uint16": "a numpy array, which says its type; give .*whole.npy$",
    "dolma.npy": "not a numpy file .* name their type: .*dolma.npy:uint16",
    "prose.bin": "looks like text; name it .txt",
    "known.bin": "vocabulary of 16 of the meta.pkl",
    "whole.npy:uint12": "'uint12' is no type of token ids; known: uint8",
}


def test_files_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "planted"
    folder.mkdir()
    plant(folder)
    for name, words in WRONG.items():
        with pytest.raises(ValueError, match=words) as caught:
            token_file(workload(folder / name), 1, tmp_path / "tokens.npy")
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "tokens.npy").exists()


WHOLE: dict[str, Callable[[Path], object]] = {
    "pair.bin": lambda folder: write_megatron(folder / "pair", DOCUMENTS, "int32"),
    "llm.bin": lambda folder: write_llmc(folder / "llm.bin", IDS, 20240520, 1, "uint16"),
    "raw.bin": lambda folder: np.array(IDS, dtype=np.uint16).tofile(folder / "raw.bin"),
    "array.npy": lambda folder: np.save(folder / "array.npy", np.array(IDS)),
    "c.jsonl": lambda folder: (folder / "c.jsonl").write_text('{"text": "abcdefgh"}\n' * 2),
}


def test_a_large_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    """A sparse file of 64 GiB: only its first tokens are touched."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.write(np.array(IDS, dtype=np.uint16).tobytes())
        file.truncate(64 * 2**30)
    token_file(workload(tmp_path / "large.bin"), 1, tmp_path / "tokens.npy")
    assert flat(tmp_path / "tokens.npy").tolist() == IDS[:16]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(WHOLE)), change=st.data())
def test_damaged_files_are_refused_in_one_line_or_read(name: str, change: st.DataObject) -> None:
    """Bytes changed or cut at any place: an error for users, or ids of the vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        WHOLE[name](Path(folder))
        damaged = change.draw(st.sampled_from(sorted(Path(folder).iterdir())))
        content = bytearray(damaged.read_bytes())
        place = change.draw(st.integers(0, len(content) - 1))
        content[place : place + 1] = change.draw(st.binary(max_size=9))
        end = change.draw(st.integers(0, 3 * len(content)))
        damaged.write_bytes(content[:end])
        problem = problem_of(Path(folder) / name, Path(folder) / "tokens.npy")
        assert "\n" not in problem
        if not problem:
            ids = flat(Path(folder) / "tokens.npy")
            assert 0 <= ids.min() <= ids.max() < 256


def problem_of(data: Path, path: Path) -> str:
    """The error for users; "" if the data were read."""
    try:
        token_file(workload(data), 1, path)
    except ValueError as error:
        return str(error)
    return ""

"""From text to token ids: bytes, or a Hugging Face tokenizer."""

from __future__ import annotations

import codecs
import hashlib
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.data.source import BYTES, Tokens, Unusable
from benchmarks.file_names import openable, printable

TOKENIZER_FILE = "tokenizer.json"


class Encoder(Protocol):
    """Turns pieces of text into ids. `name` and `sha256` stand in the record."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str | None: ...

    def encode(self, content: bytes, begins_document: bool) -> Tokens:
        """The ids of the next piece. Raises Unusable for text that has none."""
        ...


class ByteEncoder:
    """A byte is a token: vocabulary 256."""

    name = BYTES
    sha256 = None

    def encode(self, content: bytes, begins_document: bool) -> Tokens:
        return np.frombuffer(content, dtype=np.uint8)


class TokenizerEncoder:
    """A `tokenizer.json`, without special tokens, truncation and padding: all text, nothing else.

    errors: "strict" or "replace", for bytes that are not UTF-8.
    """

    def __init__(self, tokenizer: str, errors: str) -> None:
        """Raises Unusable for a tokenizer that cannot be read."""
        path = openable(tokenizer)
        path = path / TOKENIZER_FILE if path.is_dir() else path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise self._unusable(path.name, f"cannot be read ({error.strerror})") from error
        self._tokenizer = self._load(path.name, content)
        self.sha256: str | None = hashlib.sha256(content).hexdigest()
        self.name = f"{printable(path.name)}, tokenizers {version('tokenizers')}"
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def encode(self, content: bytes, begins_document: bool) -> npt.NDArray[np.uint32]:
        if begins_document:
            self._decoder.reset()
        try:
            text = self._decoder.decode(content)
        except UnicodeDecodeError as error:
            raise Unusable(
                f"a tokenizer reads UTF-8, and byte 0x{error.object[error.start]:02x} "
                f"({error.reason}) is none; convert the text, or leave --tokenizer out",
            ) from None
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except BaseException as error:
            if not _is_of_library(error):
                raise
            raise self._unusable(self.name, f"has no ids for the text ({error})") from None
        return np.asarray(encoding.ids, dtype=np.uint32)

    def _load(self, name: str, content: bytes) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_buffer(content)
        except BaseException as error:
            if not (isinstance(error, ValueError) or _is_of_library(error)):
                raise
            raise self._unusable(name, f"is none ({error})") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _unusable(self, name: str, problem: str) -> ValueError:
        return Unusable(
            f"the tokenizer {printable(name)} {problem}; give the tokenizer.json of a "
            "Hugging Face model by --tokenizer",
        )


def _is_of_library(error: BaseException) -> bool:
    """Whether `tokenizers` itself gave up: it raises the bare class, and a panic of its Rust code.

    A panic derives from BaseException and has no name that can be imported.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException"

"""Files that hold no text and no raw ids, known by their first bytes."""

from __future__ import annotations

FOREIGN = (
    (b"\x1f\x8b", "compressed by gzip", "decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it"),
    (b"\xfd7zXZ\x00", "compressed by xz", "decompress it"),
    (b"BZh", "compressed by bzip2", "decompress it"),
    (b"PK\x03\x04", "a zip archive (.npz, .pt)", "save one array by numpy.save"),
    (b"PAR1", "a Parquet file", "write its text as JSONL"),
    (b"ARROW1", "an Arrow file", "write its text as JSONL"),
    (b"\x89HDF", "an HDF5 file", "save one array by numpy.save"),
    (b"%PDF", "a PDF", "write its text as .txt"),
    (b"\x80\x02", "a pickle, which is never read", "save one array by numpy.save"),
    (b"\x80\x03", "a pickle, which is never read", "save one array by numpy.save"),
    (b"\x80\x04", "a pickle, which is never read", "save one array by numpy.save"),
    (b"\x80\x05", "a pickle, which is never read", "save one array by numpy.save"),
)
"""First bytes, what the file is, and the cure."""


def foreign_words(head: bytes) -> str | None:
    """What a file is that begins with `head`, and the cure; None for text and ids."""
    for magic, kind, cure in FOREIGN:
        if head.startswith(magic):
            return f"{kind}; {cure}"
    return None

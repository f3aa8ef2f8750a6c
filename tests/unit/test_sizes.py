"""Token counts and sizes as people write them."""

from __future__ import annotations

import pytest

from sppo.config.sizes import MIB, parse_bytes, parse_tokens


@pytest.mark.parametrize(
    ("text", "tokens"), [("4096", 4096), ("128K", 131_072), ("1M", 1_048_576), ("1.5k", 1536)]
)
def test_token_counts(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "size"), [("160MiB", 160 * MIB), ("none", None), ("1.5G", 1610612736), ("64", 64)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-3MiB", "0"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)

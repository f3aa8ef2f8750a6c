"""Foreign Markdown as safe HTML: no HTML of its own, no pictures, no links off the site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from benchmarks.file_names import printable
from benchmarks.site.page import Cell, Table


def first_line(text: str) -> str:
    """The first line with words, without the marks of a heading."""
    return next((line.strip("# ").strip() for line in text.splitlines() if line.strip("# ")), "")


def to_html(text: str, pages: Mapping[str, str]) -> Markup:
    """The text after its first line, which is the page's title.

    pages: name of a Markdown file -> its page in the same folder. Links elsewhere keep their words
    alone. Pictures are left out.
    """
    lines = [printable(line) for line in text.splitlines()]
    start = next((place + 1 for place, line in enumerate(lines) if line.strip("# ")), 0)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse("\n".join(lines[start:]))
    for token in tokens:
        if token.tag == "h1":
            token.tag = "h2"
        if token.children:
            token.children = list(_checked(token.children, pages))
    for table in _tables(tokens):
        _set_orders(table)
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _checked(tokens: Sequence[Token], pages: Mapping[str, str]) -> Iterator[Token]:
    """The tokens without pictures, and without links that lead to no page."""
    kept: list[bool] = []
    for token in tokens:
        if token.type == "image":
            continue
        if token.type == "link_open":
            page = pages.get(str(token.attrGet("href") or ""), "")
            kept.append(bool(page))
            if not page:
                continue
            token.attrSet("href", page)
        elif token.type == "link_close" and not kept.pop():
            continue
        yield token


def _tables(tokens: Sequence[Token]) -> Iterator[list[list[tuple[Token, str]]]]:
    """Of each table its lines of cells: the token that opens a cell, and the cell's words."""
    lines: list[list[tuple[Token, str]]] = []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            lines.append([])
        elif token.type == "td_open":
            lines[-1].append((token, tokens[place + 1].content))
        elif token.type == "table_close":
            yield [line for line in lines if line]
            lines = []


def _set_orders(lines: Sequence[Sequence[tuple[Token, str]]]) -> None:
    """Give the cells of columns of numbers the value to sort by, as in tables of the site."""
    rows = tuple(tuple(Cell(text=words) for _, words in line) for line in lines)
    width = min(map(len, rows), default=0)
    table = Table(titles=("",) * width, rows=rows)
    for line, orders in zip(lines, table.orders, strict=True):
        for (token, _), order in zip(line, orders, strict=False):
            if order is not None:
                token.attrSet("data-order", order)

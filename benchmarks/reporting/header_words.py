"""Sentences above a run's table: its device limit, its data, and equal work."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records.record import Record
from benchmarks.records.standard import standard
from sppo.config.sizes import format_bytes


def limit(rows: Sequence[Record]) -> str:
    """The device limit of these launches, and how it was enforced."""
    limit_bytes = rows[0].device_memory_bytes
    if limit_bytes is None:
        return "no limit"
    ways = {record.enforcement for record in rows if record.enforcement is not None}
    refused = any(record.status == "oom" for record in rows)
    how = ", ".join(sorted(ways)) or ("enforced" if refused else "no rank told how it was held")
    return f"{format_bytes(limit_bytes)} per rank ({how})"


def equal_work_lines(records: Sequence[Record]) -> list[str]:
    """Which rows did equal work, and with whom; nothing where no row did any."""
    chosen = standard(records)
    rows = [record for record in records if not record.is_reference]
    if not any(record.status in ("ok", "mismatch") for record in rows):
        return []
    reference = next((record for record in records if record.is_reference), None)
    if chosen.steps is not None:
        whom = f"the plain torch reference over {len(chosen.steps)} optimizer steps"
    else:
        why = "not run" if reference is None else f"{reference.status}: {reference.reason}"
        whom = f"each other (reference: {why})"
    wrong = sorted({record.row for record in rows if record.status == "mismatch"})
    verdict = f"NOT by {', '.join(wrong)}; the others agree" if wrong else "every ok row agrees"
    return [f"equal work: {verdict} with {whom}, {chosen.words}"]


def data_lines(record: Record) -> list[str]:
    """The data of the user, in a line; none for the suite's own and in older records."""
    text = record.text
    if text is None or text.tokens_read is None:
        return []
    if (text.file, text.tokenizer) == ("stdlib", "bytes"):
        return []
    crossed = text.documents_crossed
    documents = "" if crossed is None else f", {crossed:,} passages to the next document"
    return [f"data: {text.description}; {text.tokens_read:,} tokens read{documents}"]

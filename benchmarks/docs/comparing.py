"""How often `sppo-bench compare` is right: simulated, drawn from recorded pairs, and live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.docs.markdown import rows_table
from benchmarks.docs.published import read

NOISES = {
    "quiet": "none but jitter of 0.5 %",
    "bursts": "two neighbours in bursts of 2 s, 35 % each",
    "long load": "load for half a minute, and drift",
    "two speeds": "half of the processes 17 % slower",
    "rarely fast": "four fifths of the processes 12 % slower",
    "heavy tail": "a heavy tail (Pareto, index 1.2)",
    "continuous": "every process differs, log-normal of 5 %",
}
"""The noises of `tests.soak.compare_simulation`, in words."""

KINDS = {
    "quiet": "identical code, quiet",
    "bursty": "identical code, beside a bursty neighbour",
    "slow-down": "HEAD 10 % slower, quiet",
}
"""The kinds of `tests.soak.compare_kinds`, in words."""

DEFAULT_SECONDS, PATIENT_SECONDS = 200.0, 600.0
TENTH = 0.1


def simulated() -> str:
    """Verdicts on one of three targets under made noise."""
    cases = {
        (case["noise"], case["head_slower_by"], case["target_seconds"]): case
        for case in read("proofs/compare-simulation")["cases"]
    }
    headers = ["noise", "identical, 200 s: worse or better", "identical, 200 s: undecided"]
    for seconds in (DEFAULT_SECONDS, PATIENT_SECONDS):
        headers += [f"10 % slower, {seconds:g} s: {verdict}" for verdict in ("worse", "not worse")]
    rows = []
    for noise, words in NOISES.items():
        same = cases[noise, 0.0, DEFAULT_SECONDS]
        cells = [_false(same), _percent(same["undecided"])]
        for seconds in (DEFAULT_SECONDS, PATIENT_SECONDS):
            slower = cases[noise, TENTH, seconds]
            cells += [_percent(slower["worse"]), _percent(slower["not_worse"])]
        rows.append([words, *cells])
    return rows_table(headers, rows)


def recorded() -> str:
    """Verdicts on tries drawn from recorded pairs, and where the pairs were recorded."""
    document = read("proofs/compare-resampled")
    headers = ["pairs", "budget of the target", "worse", "better", "not worse", "undecided"]
    rows = [
        [
            f"{KINDS[case['kind']]} ({case['recorded_pairs']} recorded)",
            f"{case['target_seconds']:g} s",
            *(_percent(case[name]) for name in ("worse", "better", "not_worse", "undecided")),
        ]
        for case in document["cases"]
    ]
    return f"{rows_table(headers, rows)}\n\n{_where(document)}"


def live() -> str:
    """Verdicts of live comparisons with a minute each."""
    document = read("proofs/compare-live")
    verdicts = ("worse", "better", "not worse", "undecided")
    rows = []
    for kind, words in KINDS.items():
        tries = [each for each in document["tries"] if each["kind"] == kind]
        pairs = [each["pairs"] for each in tries]
        counts = Counter(each["outcome"] for each in tries)
        rows.append(
            [words, f"{min(pairs)} to {max(pairs)}", *(str(counts[name]) for name in verdicts)]
        )
    return f"{rows_table(['tries of 60 s', 'pairs', *verdicts], rows)}\n\n{_where(document)}"


def _where(document: Mapping[str, Any]) -> str:
    environment = document["environment"]
    return (
        f"Pairs measured on {environment['cpu_model']}, {environment['cores']} cores, "
        f"commit {environment['commit'][:9]}."
    )


def _false(case: Mapping[str, Any]) -> str:
    return _percent(case["worse"] + case["better"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share else "0"

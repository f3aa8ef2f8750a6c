"""Costs, cuts and the solver, against formulas and against what they must refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.sppo import ADAPTER
from sppo.costs import step_flops
from sppo.errors import Infeasible, NotBuilt
from sppo.exact import cheapest_fates
from sppo.layouts import Layout, split_layers
from sppo.partition import equal_cut, flops_balanced_cut, prefix_flops, time_balanced_cut
from sppo.policies import choose
from sppo.predict import plan_costs
from sppo.profile import load_profile
from sppo.solver import SolverOptions, solve, stage_problem
from sppo.workload import MIB, MODELS, Cluster, Workload, parse_bytes, parse_tokens

PROFILE = load_profile("cpu-2core")
TINY = Workload(
    name="tiny",
    model=MODELS["gpt-tiny"],
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=2),
    sequence_tokens=4096,
)


def test_dense_flops_are_24_h_squared_per_token_and_layer() -> None:
    """The paper's convention: 3 * L * (24 h^2 + 2 h S) per token, plus the head."""
    model = MODELS["gpt-7b"]
    workload = replace(TINY, model=model, sequence_tokens=1024**2)
    tokens, hidden = 1024**2, model.hidden
    flops = step_flops(workload)
    layers = 3 * model.layers * 24 * hidden**2 * tokens
    assert flops.dense == layers + 3 * 2 * hidden * model.vocabulary * tokens
    assert flops.attention_causal == 3 * model.layers * 2 * hidden * tokens * (tokens + 1)
    assert flops.attention_full == 3 * model.layers * 4 * hidden * tokens**2


@given(tokens=st.integers(1, 5000), count=st.integers(1, 40), alignment=st.sampled_from((1, 4, 16)))
def test_cuts_cover_the_sequence(tokens: int, count: int, alignment: int) -> None:
    if count * alignment > tokens:
        with pytest.raises(ValueError, match="take N of at most"):
            equal_cut(tokens, count, alignment=alignment)
        return
    for lengths in (
        equal_cut(tokens, count, alignment=alignment),
        flops_balanced_cut(TINY.model, tokens, count, alignment=alignment),
        time_balanced_cut(TINY.model, PROFILE, tokens, count, alignment=alignment),
    ):
        assert sum(lengths) == tokens
        assert len(lengths) == count
        assert min(lengths) >= 1
        assert all(length % alignment == 0 for length in lengths[:-1])


def test_flops_balanced_cut_balances() -> None:
    tokens = 131_072
    lengths = flops_balanced_cut(MODELS["gpt-7b"], tokens, 16, alignment=16)
    costs = []
    start = 0
    for length in lengths:
        before = prefix_flops(MODELS["gpt-7b"], start)
        costs.append(prefix_flops(MODELS["gpt-7b"], start + length) - before)
        start += length
    assert max(costs) / min(costs) < 1.01
    assert lengths[0] > lengths[-1]


def test_a_cap_on_lengths_keeps_the_largest_cost() -> None:
    model, tokens = MODELS["gpt-7b"], 1024**2
    plain = flops_balanced_cut(model, tokens, 64, alignment=128)
    capped = flops_balanced_cut(model, tokens, 64, alignment=128, longest=16_384)
    assert plain[0] > 100_000
    assert max(capped) <= 16_384
    assert sum(capped) == tokens
    assert len(capped) > len(plain)


def test_layers_split_with_the_remainder_in_front() -> None:
    assert split_layers(5, 2) == ((0, 3), (3, 5))
    with pytest.raises(ValueError, match="at most 3 ranks"):
        split_layers(3, 4)


def test_solver_fits_the_limit_by_the_cheapest_fates() -> None:
    free = solve(TINY, PROFILE)
    peak = max(stage.memory.total for stage in free.stages)
    assert all(stage.memory.host == 0 for stage in free.stages)
    limit = peak - 20 * MIB
    tight = solve(TINY.with_device_memory(limit), PROFILE)
    assert max(stage.memory.total for stage in tight.stages) <= limit
    assert any(any((*p.offload_units, *p.recompute_units)) for p in tight.parts)
    assert tight.makespan_seconds >= free.makespan_seconds
    assert "device limit" in tight.card()


def test_slow_links_recompute_and_slow_memory_offloads() -> None:
    tight = TINY.with_device_memory(120 * MIB)
    slow_link = replace(PROFILE, d2h_bytes_per_second=1e8, h2d_bytes_per_second=1e8)
    plan = solve(tight, slow_link)
    assert max(stage.memory.host for stage in plan.stages) == 0
    assert any(any(part.recompute_units) for part in plan.parts)
    slow_memory = replace(PROFILE, memory_bytes_per_second=1e8)
    plan = solve(tight, slow_memory)
    assert max(stage.memory.host for stage in plan.stages) > 0
    assert not any(any(part.recompute_units) for part in plan.parts)


@pytest.mark.parametrize("limit", [102, 105, 120, 140])
@pytest.mark.parametrize("overlapped", [False, True])
def test_the_exact_fates_cost_no_more_than_the_heuristic(limit: int, overlapped: bool) -> None:
    """On the same stage, and both fit."""
    profile = replace(PROFILE, overlapped_copies=overlapped, d2h_bytes_per_second=2e9)
    workload = replace(TINY.with_device_memory(limit * MIB), host_memory_bytes=40 * MIB)
    layout = Layout(
        workload=workload,
        profile=profile,
        sequence_parallel=1,
        pipeline_parallel=2,
        virtual_stages=1,
        group_subsequences=6,
        lengths=flops_balanced_cut(TINY.model, 4096, 6, alignment=16),
    )
    problem = stage_problem(layout, 1)
    rough, best = choose(problem, "auto"), cheapest_fates(problem)
    for fates in (rough, best):
        problem.require_fit(problem.memory(fates))
    assert problem.added_ns(best) <= 1.001 * problem.added_ns(rough)


def test_exact_says_infeasible_as_the_heuristic_does() -> None:
    with pytest.raises(Infeasible, match=r"short by .* of device memory"):
        solve(TINY.with_device_memory(60 * MIB), PROFILE, SolverOptions(solver="exact"))


def test_the_papers_heuristic_says_what_its_memory_model_misses() -> None:
    plan = solve(TINY.with_device_memory(136 * MIB), PROFILE, SolverOptions(solver="paper"))
    assert plan.virtual_stages == 1
    assert not any(any(part.recompute_units) for part in plan.parts)
    assert any("over the limit" in reason for reason in plan.reasons)


def test_alpha_is_the_share_that_hides_under_the_next_subsequence() -> None:
    """alpha_i A_i <= BW * T, to within one unit; long early subsequences keep a part."""
    profile = replace(PROFILE, overlapped_copies=True, d2h_bytes_per_second=4e8)
    plan = solve(TINY, profile, SolverOptions(policy="paper", subsequences=8, virtual_stages=1))
    shares = plan.parts[0].offload_share
    assert shares[-1] == 0.0
    assert 0 < shares[0] < shares[-2]
    layout_costs = plan_costs(plan, profile)[0]
    unit = 4 * max(plan.lengths_tokens) * TINY.model.ffn
    for index in range(7):
        assert layout_costs.d2h[index] <= layout_costs.forward[index + 1] + unit / 4e8 * 1e9


def test_last_subsequence_never_travels() -> None:
    plan = solve(TINY, PROFILE, SolverOptions(policy="full-offload", subsequences=4))
    for part in plan.parts:
        assert part.offload_share[-1] == 0.0
        assert all(share > 0.5 for share in part.offload_share[:-1])


def test_infeasible_says_what_is_short() -> None:
    with pytest.raises(Infeasible, match=r"short by .* of device memory"):
        solve(TINY.with_device_memory(30 * MIB), PROFILE)
    starved = replace(TINY.with_device_memory(120 * MIB), host_memory_bytes=1 * MIB)
    with pytest.raises(Infeasible, match=r"of host memory"):
        solve(starved, PROFILE, SolverOptions(subsequences=8, policy="full-offload"))


def test_layouts_that_do_not_fill_the_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no layout SP any x PP 3 fills 2 ranks"):
        solve(TINY, PROFILE, SolverOptions(pipeline_parallel=3))
    with pytest.raises(ValueError, match=r"no layout SP 3 x PP any fills 2 ranks"):
        solve(TINY, PROFILE, SolverOptions(sequence_parallel=3))


def test_the_engine_refuses_plans_it_cannot_run() -> None:
    with pytest.raises(NotBuilt, match="sequence parallelism inside a stage"):
        ADAPTER.plan(TINY, SolverOptions(sequence_parallel=2))
    assert solve(TINY, PROFILE, SolverOptions(sequence_parallel=2)).sequence_parallel == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"policy": "fast"}, "unknown policy 'fast': take one of auto"),
        ({"cut": "random"}, "unknown cut"),
        ({"solver": "oracle"}, "unknown solver"),
        ({"solver": "exact", "policy": "lean"}, "the exact solver decides"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SolverOptions(**options)


def test_profiles_are_checked() -> None:
    with pytest.raises(NotBuilt, match=r"there are: .*cpu-2core"):
        load_profile("abacus")
    with pytest.raises(ValueError, match="not positive"):
        replace(PROFILE, d2h_bytes_per_second=0.0)
    with pytest.raises(ValueError, match="not positive"):
        replace(PROFILE, rates=())


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


def test_arrows_point_one_way() -> None:
    """The import-linter contracts of pyproject.toml."""
    from importlinter.cli import lint_imports

    config = Path(__file__).parents[2] / "pyproject.toml"
    assert lint_imports(config_filename=str(config), no_cache=True) == 0

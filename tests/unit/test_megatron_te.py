"""Megatron's rows with and without TransformerEngine: words, grid, refusals. No library, no GPU.

TransformerEngine is not installed: where a test says that it is, only the question is answered.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import product
from typing import Any

import msgspec
import pytest
import torch

from baselines import registry
from baselines.megatron import te, te_rules
from baselines.megatron.adapter import ADAPTER as LOCAL
from baselines.megatron.settings import MegatronSettings
from baselines.megatron.te import ADAPTER
from baselines.megatron.te_rules import OFFLOADABLE, WITHOUT_TE, a2a_ranks
from baselines.megatron.weights import RankShard, shard_of
from baselines.protocol import Context, Unavailable, check_emulated, check_tried
from benchmarks import workloads
from benchmarks.cli import main
from benchmarks.job import Job, Kernels
from benchmarks.launch import kernel_choice
from benchmarks.reporting import tables
from benchmarks.rows.assign import assign, with_settings
from benchmarks.rows.row import ROWS, find, settings_key
from benchmarks.worker import rank as worker
from sppo.config.models import MODELS, Model, gpt, llama
from sppo.plan.weights import weight_shapes
from tests.unit.records_factory import record

NODE = workloads.find("gpt-7b-128k-8xh100")
TE = MegatronSettings(transformer_engine=True, tensor_parallel=8, sequence_parallel=True)
CP = MegatronSettings(transformer_engine=True, tensor_parallel=2, context_parallel=4)
(ROW,) = find(["megatron-te"])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The question whether TransformerEngine is installed is answered with yes."""
    monkeypatch.setattr(te_rules, "find_spec", lambda name: name)
    return monkeypatch


def settings_of(system: str) -> MegatronSettings:
    adapter: Any = registry.load(system)
    point: MegatronSettings = adapter.grid(NODE)[-1]
    return point


@pytest.mark.parametrize("row", [row for row in ROWS if "megatron" in row.system])
def test_a_row_says_without_te_if_and_only_if_it_has_none(row: Any) -> None:
    settings = settings_of(row.system)
    configuration = with_settings(row, registry.load(row.system), settings, grid="a grid")
    lines = tables.notes([record(system=row.system, row=row.label, grid=configuration.grid)])
    said = [line for line in lines if "without TE" in line]
    if settings.transformer_engine:
        assert said == []
        assert any(line.startswith(f"{row.label}, settings: with TE: ") for line in lines)
        assert "TE" in ADAPTER.describe(settings).split(", ")[0].split()
    else:
        assert said == [f"{row.label}, settings: {WITHOUT_TE}"]


def test_a_row_that_is_chosen_on_a_gpu_carries_the_words() -> None:
    (row,) = find(["megatron-tuned"])
    assert WITHOUT_TE in assign(row, NODE).grid.split("; ")


def test_settings_without_te_keep_key_and_words() -> None:
    settings = MegatronSettings(tensor_parallel=2, recompute="full")
    assert "transformer_engine" not in settings_key(msgspec.to_builtins(settings))
    assert LOCAL.describe(settings) == "TP2, full recompute"
    with_te = replace(settings, transformer_engine=True)
    key = settings_key(msgspec.to_builtins(with_te))
    assert msgspec.convert(msgspec.json.decode(key), MegatronSettings) == with_te
    assert key != settings_key(msgspec.to_builtins(settings))


def test_the_grid_has_megatrons_layouts_every_way_of_cp_and_offloading(
    installed: pytest.MonkeyPatch,
) -> None:
    grid = ADAPTER.grid(NODE)
    own: dict[str, Any] = dict.fromkeys(
        ("transformer_engine", "cp_comm_type", "offload_modules", "cpu_offloading_layers")
    )
    layouts = {replace(point, **own) for point in grid}
    wanted = {point for point in LOCAL.grid(NODE) if "layernorm" not in point.recompute_modules}
    assert layouts == wanted
    assert {point.cp_comm_type for point in grid} == {None, "p2p", "all_gather", "a2a", "a2a+p2p"}
    assert all(point.context_parallel > 1 for point in grid if point.cp_comm_type)
    assert {(point.recompute, point.offload_modules) for point in grid} >= {
        ("none", OFFLOADABLE),
        ("modules", OFFLOADABLE),
        ("full", None),
    }
    assert {point.cpu_offloading_layers for point in grid} == {None, 31}
    assert grid[0] == replace(LOCAL.grid(NODE)[0], transformer_engine=True)
    assert len({ADAPTER.describe(point) for point in grid}) == len(grid)
    for point in grid:
        ADAPTER.check(NODE, point)


def test_a_grid_is_there_without_te_to_say_why_it_is_refused() -> None:
    refused = assign(ROW, NODE)
    assert refused.status == "unavailable"
    assert "TransformerEngine is not installed: pip install transformer-engine[pytorch]" in (
        refused.reason
    )
    assert "Megatron-Core's rule" in refused.reason
    assert "\n" not in refused.reason


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (replace(TE, transformer_engine=None), "megatron builds the local one"),
        (
            replace(TE, recompute="modules", recompute_modules=("mlp", "layernorm")),
            "would recompute no layernorm, without a word",
        ),
        (replace(TE, recompute="save-attention"), "megatron-te recomputes none, modules, block"),
        (replace(TE, cpu_offloading_layers=32), "less than 32 .Megatron's rule"),
        (replace(TE, cpu_offloading_layers=0), "of 0 layers"),
        (
            replace(TE, tensor_parallel=4, pipeline_parallel=2, cpu_offloading_layers=2),
            "no support for pipeline parallelism .Megatron's rule",
        ),
        (
            replace(TE, recompute="full", cpu_offloading_layers=2),
            "does not work with recomputation .Megatron's rule",
        ),
        (
            replace(TE, cpu_offloading_layers=2, offload_modules=("core_attn",)),
            "cannot be enabled with cpu_offloading .Megatron's rule",
        ),
        (
            replace(TE, offload_modules=("attn_norm", "core_attn", "moe_act")),
            "attn_norm, moe_act: Megatron would offload nothing in a dense model",
        ),
        (replace(TE, offload_modules=("attn_proj",)), "needs core_attn too .Megatron's rule"),
        (
            replace(TE, recompute="full", offload_modules=("core_attn",)),
            "this suite does not combine them",
        ),
        (replace(TE, cp_comm_type="p2p"), "for context parallelism: CP is 1"),
        (
            replace(TE, tensor_parallel=4, context_parallel=2, cp_comm_type="a2a+p2p"),
            "no part of CP 2 lies in a node of 8 ranks beside TP 4",
        ),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    settings: MegatronSettings, words: str, installed: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match=words) as refusal:
        ADAPTER.check(NODE, settings)
    assert "\n" not in str(refusal.value)


def test_all_to_alls_divide_heads_and_lie_in_a_node(installed: pytest.MonkeyPatch) -> None:
    assert a2a_ranks(NODE, CP) == 2
    ADAPTER.check(NODE, replace(CP, cp_comm_type="a2a+p2p"))
    ADAPTER.check(NODE, replace(CP, cp_comm_type="a2a"))
    few_heads = replace(NODE, model=replace(MODELS["llama-8b"], kv_heads=2))
    assert a2a_ranks(few_heads, CP) is None
    with pytest.raises(Unavailable, match=r"a2a: 1 KV heads .* over CP 4 .TransformerEngine's"):
        ADAPTER.check(few_heads, replace(CP, cp_comm_type="a2a"))
    ADAPTER.check(few_heads, replace(CP, cp_comm_type="p2p"))


def test_offloading_is_taken_where_megatron_takes_it(installed: pytest.MonkeyPatch) -> None:
    layers = replace(TE, cpu_offloading_layers=31)
    modules = replace(TE, offload_modules=("core_attn", "attn_proj", "qkv_linear"))
    ADAPTER.check(NODE, layers)
    ADAPTER.check(NODE, replace(modules, recompute="modules", recompute_modules=("mlp",)))
    assert ADAPTER.describe(layers) == "TP8 SP TE, no recompute, cpu_offloading 31 layers"
    assert ADAPTER.describe(modules).endswith("offload core_attn+attn_proj+qkv_linear")


def test_a_cpu_has_no_transformer_engine(installed: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="on CUDA alone, and tiny-cpu runs on a CPU"):
        ADAPTER.check(
            workloads.find("tiny-cpu"), MegatronSettings(transformer_engine=True, tensor_parallel=2)
        )


def test_the_system_of_the_local_spec_takes_no_te(installed: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="local spec; megatron-te builds TransformerEngine's"):
        LOCAL.check(NODE, TE)


def test_no_emulation_runs_transformer_engine(installed: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"cannot be emulated; megatron, without TE, can"):
        check_emulated(ADAPTER, NODE, TE)
    installed.setattr(te_rules, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="cannot be emulated"):
        check_emulated(ADAPTER, NODE, TE)


def test_its_grid_is_not_searched_by_emulation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", "megatron-te", NODE.name, "--tuned"]) == 2
    refused = capsys.readouterr().err
    assert refused.startswith("error: --tuned: TransformerEngine's kernels read the memory")
    assert refused.count("\n") == 1


def test_the_same_layout_has_te(installed: pytest.MonkeyPatch) -> None:
    same = ADAPTER.same_layout(NODE, pipeline_parallel=4, tensor_parallel=2)
    assert ADAPTER.describe(same) == "TP2 PP4 SP TE, full recompute"


def test_what_never_ran_is_refused_unless_forced(installed: pytest.MonkeyPatch) -> None:
    words = r"TransformerEngine has never run in this suite \(docs/gpu.md\): leave megatron-te out"
    with pytest.raises(Unavailable, match=f"{words}, or try it by --force-kernel"):
        check_tried(ADAPTER, forced=False)
    check_tried(ADAPTER, forced=True)
    for system in {*registry.SYSTEMS} - {"megatron-te"}:
        check_tried(registry.load(system), forced=False)
    chosen = [assign(ROW, NODE)]
    with pytest.raises(ValueError, match=words):
        kernel_choice.check_rows(chosen, forced=False)
    kernel_choice.check_rows(chosen, forced=True)
    installed.setattr(te_rules, "find_spec", lambda name: None)
    kernel_choice.check_rows([assign(ROW, NODE)], forced=False)


def test_run_wants_the_force(
    installed: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", NODE.name, "--systems", "megatron-te", "--dry-run"]
    assert main(arguments) == 2
    refused = capsys.readouterr()
    assert refused.err.startswith("error: Megatron with TransformerEngine has never run")
    assert refused.err.count("\n") == 1
    assert not refused.out
    assert main([*arguments, "--force-kernel", "--launches", "1"]) == 0
    shown = capsys.readouterr().out
    assert "with TE: Megatron's layer spec" in shown
    assert "megatron-te-1/job.json" in shown


def test_run_says_that_te_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", NODE.name, "--systems", "megatron-te", "--dry-run"]) == 0
    assert "unavailable: megatron-te, " in capsys.readouterr().out


def test_a_rank_refuses_what_never_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that launches ends here, whatever its flags."""
    monkeypatch.setattr(worker, "join_ranks", lambda job: torch.device("cpu"))
    monkeypatch.setattr(worker, "use_kernels", lambda job, device: None)
    monkeypatch.setattr(worker, "job_tokens", lambda job: None)
    monkeypatch.setattr(worker.devices, "strict_allocator", lambda: None)
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda count: None)
    reached = []
    monkeypatch.setattr(worker, "Accounting", lambda *given, **more: reached.append(1))
    monkeypatch.setattr(worker, "prepare", lambda *given: reached.append(2) or 1 / 0)
    heartbeat: Any = type("Heartbeat", (), {"note": print, "enter": print, "rank": 0})()
    job = Job(
        workload=NODE,
        system="megatron-te",
        row="",
        launch=1,
        settings={},
        weights_path="",
        tokens_path="",
        output_directory="",
        ranks=8,
        warmup_steps=1,
        measured_steps=1,
    )
    with pytest.raises(Unavailable, match="has never run"):
        worker.run(job, heartbeat)
    assert reached == []
    forced = msgspec.structs.replace(job, kernels=Kernels(forced=True))
    with pytest.raises(ZeroDivisionError):
        worker.run(forced, heartbeat)
    assert reached == [1, 2]


def test_a_package_that_does_not_load_is_unavailable(installed: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    installed.setattr(te, "import_module", broken)
    context = Context(rank=0, ranks=8, device=torch.device("cuda"), dtype=torch.bfloat16)
    words = "installed and does not load: libcudart.so.13: cannot open shared object file$"
    with pytest.raises(Unavailable, match=words):
        ADAPTER.prepare(NODE, TE, {}, context)


def test_its_version_is_recorded_with_every_row_of_megatron(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "transformer-engine" not in LOCAL.versions()
    monkeypatch.setattr(te_rules, "version", lambda name: "2.9.0")
    for adapter in (LOCAL, ADAPTER):
        assert adapter.versions()["transformer-engine"] == "2.9.0"
    assert importlib.util.find_spec("transformer_engine") is None


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (gpt("g", layers=4, hidden=64, heads=4, vocabulary=128), ("weight", "bias")),
        (
            llama("l", layers=4, hidden=64, heads=4, kv_heads=2, ffn=96, vocabulary=128),
            ("weight",),
        ),
    ],
)
def test_norms_inside_linear_layers_are_whole_on_every_rank(
    model: Model, kinds: tuple[str, ...]
) -> None:
    """By the names of TransformerEngine's `LayerNormLinear`; the rest is as in the local spec."""
    weights = {name: torch.randn(shape) for name, shape in weight_shapes(model).items()}
    inside = {"self_attention.linear_qkv": "norm1", "mlp.linear_fc1": "norm2"}
    for tensor_rank in (0, 1):
        shard = RankShard(tensor_rank=tensor_rank, tensor_parallel=2, first_layer=2)
        for (module, norm), kind in product(inside.items(), kinds):
            name = f"decoder.layers.1.{module}.layer_norm_{kind}"
            wanted = weights[f"layers.3.{norm}.{kind}"]
            assert torch.equal(shard_of(name, weights, model, shard), wanted), name
        linear = shard_of("decoder.layers.1.mlp.linear_fc1.weight", weights, model, shard)
        assert torch.equal(
            linear[-8:], weights["layers.3.mlp.up.weight"].chunk(2)[tensor_rank][-8:]
        )

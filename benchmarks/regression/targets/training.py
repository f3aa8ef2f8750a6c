"""Engine step, attention and a stage's passes, timed on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.regression.targets.target import Repetition
from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads
from sppo.config.hardware import load_hardware
from sppo.config.models import Model, gpt
from sppo.config.workload import Cluster, Workload
from sppo.engine.context import EngineContext
from sppo.engine.engine import build_engine
from sppo.engine.stage import Stage
from sppo.model.mixers.flash_blocks import attend, attend_backward
from sppo.model.mixers.kv_block import KvFormat
from sppo.model.mixers.kv_cache import KvCache
from sppo.model.weights import StageWeights
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

CPU = torch.device("cpu")

CONTEXT = EngineContext(device=CPU, dtype=torch.float32)

STEP_MODEL = gpt("gpt-timed-step", layers=2, hidden=128, heads=4, vocabulary=256)
STEP_TOKENS = 512
STAGE_MODEL = gpt("gpt-timed-stage", layers=2, hidden=256, heads=4, vocabulary=256)
STAGE_TOKENS = 256
EARLIER_SUBSEQUENCES = 4
QUERIES = 256
EARLIER_POSITIONS = 4096


def _plan(model: Model, tokens: int, subsequences: int, policy: str) -> Plan:
    """A plan of one rank with every choice fixed: a change of the planner changes no work."""
    workload = Workload(
        name="timed",
        model=model,
        cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=1),
        sequence_tokens=tokens,
    )
    options = SolverOptions(
        pipeline_parallel=1,
        sequence_parallel=1,
        data_parallel=1,
        virtual_stages=1,
        subsequences=subsequences,
        policy=policy,
        cut="equal",
        kv_offload=False,
        head_alone=False,
        msp=False,
    )
    return solve(workload, load_hardware("cpu-2core"), options)


def _tokens(model: Model, count: int) -> Tensor:
    return torch.arange(count + 1).mul(7).remainder(model.vocabulary).unsqueeze(0)


@contextmanager
def engine_step() -> Iterator[Repetition]:
    """A step of one rank's engine: its whole schedule, with offloads and reloads.

    Without AdamW: torch.optim imports torch._dynamo, a second of every process.
    """
    torch.set_num_threads(1)
    plan = _plan(STEP_MODEL, STEP_TOKENS, 4, "full-offload")
    (groups,) = connect_threads(plan)
    weights = initial_weights(STEP_MODEL, seed=1, dtype=torch.float32)
    own = StageWeights(plan, 0, weights, CPU, torch.float32, groups.shards)
    engine = build_engine(plan, own, CONTEXT, groups)
    tokens = _tokens(STEP_MODEL, STEP_TOKENS)

    def repetition() -> object:
        own.zero_gradients()
        return engine.run(tokens, 1.0 / STEP_TOKENS)

    yield repetition


@contextmanager
def attention() -> Iterator[Repetition]:
    """Forward and backward of a subsequence's attention against a long resident KV."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    model = STAGE_MODEL
    cache = KvCache(
        KvFormat(model=model, device=CPU, dtype=torch.float32), 1, EARLIER_POSITIONS + QUERIES
    )
    (layer,) = cache.layers
    for buffer in cache.buffers[:2]:
        buffer.normal_(generator=generator)
    shape = (model.heads, QUERIES, model.head_width)
    query, gradient = (torch.randn(shape, generator=generator) for _ in range(2))

    def repetition() -> object:
        own = layer.own(EARLIER_POSITIONS, QUERIES)
        output, logsumexp = attend(query, own, layer.prefix(EARLIER_POSITIONS, QUERIES))
        return attend_backward(
            gradient.unsqueeze(0),
            query.unsqueeze(0),
            output,
            logsumexp,
            layer.own_gradients(EARLIER_POSITIONS, QUERIES),
            layer.prefix_gradients(EARLIER_POSITIONS, QUERIES),
        )

    yield repetition


def _stage() -> tuple[Stage, Tensor]:
    """A stage of two blocks and the head that keeps everything, and tokens."""
    torch.set_num_threads(1)
    count = (EARLIER_SUBSEQUENCES + 1) * STAGE_TOKENS
    plan = _plan(STAGE_MODEL, count, EARLIER_SUBSEQUENCES + 1, "no-offload")
    (groups,) = connect_threads(plan)
    weights = initial_weights(STAGE_MODEL, seed=1, dtype=torch.float32)
    own = StageWeights(plan, 0, weights, CPU, torch.float32, groups.shards)
    return Stage(plan, own, CONTEXT, groups), _tokens(STAGE_MODEL, count)[0]


def _forward(stage: Stage, tokens: Tensor, index: int) -> Tensor:
    part = stage.part(0, index)
    span = part.spans[index]
    return part.forward(0, index, tokens[span], tokens[1:][span], 1.0 / STAGE_TOKENS)


@contextmanager
def stage_forward() -> Iterator[Repetition]:
    """The last subsequence's forward; its saved tensors are dropped, not used."""
    stage, tokens = _stage()
    for index in range(EARLIER_SUBSEQUENCES):
        _forward(stage, tokens, index)

    def repetition() -> object:
        return _forward(stage, tokens, EARLIER_SUBSEQUENCES)

    yield repetition
    stage.abort()


@contextmanager
def stage_backward() -> Iterator[Repetition]:
    """The last subsequence's backward, with the forward that makes its saved tensors."""
    stage, tokens = _stage()
    for index in range(EARLIER_SUBSEQUENCES):
        _forward(stage, tokens, index)
    part = stage.part(0, EARLIER_SUBSEQUENCES)
    own_tokens = tokens[part.spans[EARLIER_SUBSEQUENCES]]

    def repetition() -> object:
        loss = _forward(stage, tokens, EARLIER_SUBSEQUENCES)
        part.backward(0, EARLIER_SUBSEQUENCES, None, own_tokens)
        return loss

    yield repetition
    stage.abort()

"""Train a small GPT under a four-stage plan, every rank a thread: predicted = counted."""

import torch

from benchmarks.worker.weights import initial_weights
from sppo import Cluster, SolverOptions, Workload, load_hardware, run_in_threads, solve
from sppo.config.models import gpt
from sppo.config.workload import Optimizer

workload = Workload(
    name="threads",
    model=gpt("gpt-small", layers=8, hidden=64, heads=4, vocabulary=32),
    cluster=Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=4),
    sequence_tokens=512,
    optimizer=Optimizer(learning_rate=3e-3),
)
options = SolverOptions(pipeline_parallel=4, subsequences=4, policy="full-offload")
plan = solve(workload, load_hardware("cpu-2core"), options)

# Something to learn: the same 32 tokens over and over.
tokens = torch.arange(workload.sequence_tokens + 1).mul(7).remainder(32).unsqueeze(0)
weights = initial_weights(workload.model, seed=1, dtype=torch.float32)
training = run_in_threads(plan, weights, [tokens] * 20, optimizer=workload.optimizer)

for step, (loss, norm) in enumerate(zip(training.losses, training.gradient_norms, strict=True)):
    print(f"step {step:2d}   loss {loss:.4f}   gradient norm {norm:.4f}")
for rank in training.ranks:
    predicted = plan.stages[rank.stage].memory.kept_peak
    messages = plan.predicted.messages[rank.stage]
    print(
        f"stage {rank.stage}   saved tensors: predicted {predicted:,} bytes, counted "
        f"{rank.kept_peak_bytes:,}   messages: predicted {messages}, counted {rank.messages}"
    )

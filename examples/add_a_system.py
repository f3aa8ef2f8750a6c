"""A system of one's own behind baselines/protocol.py, held to the reference's losses and norms."""

import torch

from baselines import registry
from baselines.protocol import Context
from baselines.reference import ReferenceAdapter, ReferenceSystem
from benchmarks.records.equal_work import TOLERANCE, equal_work
from benchmarks.records.record import StepRecord
from benchmarks.worker.weights import initial_weights
from sppo import MODELS, Cluster, Workload


class ToySystem(ReferenceSystem):
    def step(self, tokens):
        return super().step(tokens.flip(0))  # the last sequence first: another order, equal work


class ToyAdapter(ReferenceAdapter):
    def prepare(self, workload, settings, weights, context):
        return ToySystem(workload, settings, weights, context)


registry.register("toy", ToyAdapter())
cpu = Cluster(hardware="cpu-2core", device="cpu", nodes=1, ranks_per_node=1)
model = MODELS["gpt-tiny"]
workload = Workload(name="toy", model=model, cluster=cpu, sequence_tokens=64, sequences_per_step=2)
here = Context(rank=0, ranks=1, device=torch.device("cpu"), dtype=torch.float32)
weights = initial_weights(model, seed=1, dtype=torch.float32)
tokens = torch.randint(0, model.vocabulary, (2, 65), generator=torch.Generator().manual_seed(1))

rows = {}
for name in ("reference", "toy"):
    adapter = registry.load(name)
    system = adapter.prepare(workload, adapter.grid(workload)[0], weights, here)
    results = [system.step(tokens) for _ in range(3)]
    rows[name] = [StepRecord(tokens=128, seconds=0.0, phase="measured", **vars(r)) for r in results]
    print(name, *(f"loss {step.loss:.4f}" for step in rows[name]))
print("other work:", equal_work(rows, rows["reference"], tolerance=TOLERANCE["float32"]) or "none")

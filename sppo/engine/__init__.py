"""One rank that runs a schedule: its chunks, its stage, its optimizer, its step.

Read first: `trainer.Trainer`, `engine.Engine`, `stage.Stage`, `context.EngineContext`;
`in_threads` runs all ranks in one process.
"""

"""The paper's points and figures beside what is emulated and simulated here.

Read first: `boundaries.verdicts`, `offload_ablation.point`, `reported.points`.
"""

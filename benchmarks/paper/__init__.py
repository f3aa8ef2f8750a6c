"""The paper's points and figures beside emulated and simulated results.

Read first: `boundaries.PaperComparison`, `offload_ablation.ablation_point`, `reported.points`.
"""

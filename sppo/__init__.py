"""SPPO: a planner without torch and an engine without the planner, which meet in the plan.

    from sppo import MODELS, Cluster, Workload, load_hardware, plan_card, simulate_plan, solve

The public names are those of `__init__.pyi`. Each is imported when it is first asked for: `import
sppo` costs nothing, and only the names for training load torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The libraries of the systems, for a process that only imports and forks ranks (`tests.ranks`).

Without Megatron-Core: it leaves a scalar tensor behind, which other systems' ranks would count.
"""

from benchmarks.accounting.visible import spare_live_objects
from benchmarks.emulation.forked.rank_server import import_libraries

for _system in ("deepspeed", "native", "sppo"):
    import_libraries(_system)
spare_live_objects()  # DeepSpeed collects garbage often, and walks them otherwise

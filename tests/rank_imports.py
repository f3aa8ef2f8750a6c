"""The libraries of the systems, for a process that only imports and forks ranks (`tests.ranks`).

Without Megatron-Core: it leaves a scalar tensor behind, which other systems' ranks would count.
Ranks on CPUs: DeepSpeed's accelerator is the CPU from the import on.
"""

from contextlib import suppress

from benchmarks.accounting.visible import spare_live_objects
from benchmarks.emulation.forked.rank_server import import_libraries

for _system in ("deepspeed", "native", "sppo"):
    with suppress(Exception):  # a rank that needs the library says what is wrong with it
        import_libraries(_system)
spare_live_objects()  # DeepSpeed collects garbage often, and walks them otherwise

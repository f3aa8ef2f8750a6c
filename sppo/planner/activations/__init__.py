"""Which saved tensors of a stage are kept, offloaded or recomputed."""

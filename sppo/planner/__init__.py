"""From a workload and its hardware to the fastest plan that fits."""

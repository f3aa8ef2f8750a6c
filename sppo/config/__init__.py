"""Model, workload, cluster, hardware and their sizes."""

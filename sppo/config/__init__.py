"""Model, workload, cluster, hardware and their sizes.

Read first: `workload.Workload`, `models.Model`, `hardware.Hardware`, `hardware.load_hardware`.
"""

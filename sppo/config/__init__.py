"""What is trained on what: model, workload, cluster, hardware and their sizes."""

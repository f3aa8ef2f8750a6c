"""Commands that show existing records, workloads and the machine."""

"""The harness: workloads, launches, emulations, records, tables, and the command line."""

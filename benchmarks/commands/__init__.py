"""The commands of `sppo-bench`: flags, checks and output."""

"""The commands of `sppo-bench`: flags, checks, and what each prints."""

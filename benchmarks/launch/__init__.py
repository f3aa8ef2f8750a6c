"""From rows to records: start the ranks, watch them, judge how they ended."""

"""From the counts of an emulated step to its simulated time."""

"""What a launch leaves on disk, and the numbers that follow from it."""

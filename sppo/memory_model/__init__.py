"""What lies on a device and its host at every moment of a plan, in bytes."""

"""Bytes on a device and its host at every compute of a plan."""

"""Bytes by kind, FLOPs and messages of one step, real or fake."""

"""Colours of the figures."""

from __future__ import annotations

COLOURS = {"sppo": "#0b6e4f", "megatron": "#5b7fa3", "deepspeed": "#b08d57"}
OTHER = "#8a8f98"
INK = "#22262b"
FAINT = "#6b7280"
FAILED = "#b3261e"

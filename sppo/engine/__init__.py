"""One rank that runs a schedule: its parts, its stage, its optimizer, its step."""

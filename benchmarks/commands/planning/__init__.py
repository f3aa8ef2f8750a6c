"""Commands that launch nothing: plan, simulate, emulate."""

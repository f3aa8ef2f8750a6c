"""SPPO: a planner without torch and an engine without the planner, which meet in the plan."""

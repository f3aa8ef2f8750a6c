"""The layouts that the planner tries: degrees, cuts, parts a stage."""

"""Commands of many launches or many emulations."""

"""The paper's points and figures beside what is emulated and simulated here."""

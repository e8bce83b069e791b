"""Is this machine, or are these machines, fit for a run: what was measured, and what is wanted."""

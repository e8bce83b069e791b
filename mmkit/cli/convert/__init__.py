"""``mmkit convert``: the command, its way back, and where it may read and write."""

"""How published checkpoints read pictures: their fields read, written, and compared with a run's."""

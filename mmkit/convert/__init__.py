"""Checkpoints of other projects, to mmkit and back: tables of names, and the files that they apply to."""

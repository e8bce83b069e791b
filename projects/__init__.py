"""Ideas on top of mmkit, one folder each; see README.md."""

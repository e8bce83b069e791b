"""The layouts of published checkpoints: how a file of one is told, read and written."""

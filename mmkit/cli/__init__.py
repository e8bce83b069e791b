"""The ``mmkit`` command. ``main`` is the entry point; each group of subcommands is a module with ``register``."""

from mmkit.cli.main import main

__all__ = ["main"]

"""The ``mmkit`` command. ``main`` is the entry point; each group of subcommands is a module with ``register``."""

import os

# Before torch is imported: threads that wait for one another sleep instead of spinning. Beside a loading worker, or on
# a busy machine, a step otherwise takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from mmkit.cli.main import main

__all__ = ["main"]

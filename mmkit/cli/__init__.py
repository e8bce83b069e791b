"""The ``mmkit`` command. ``main`` is the entry point; each group of subcommands is a module with ``register``."""

import os
import sys

# Before torch is imported: threads that wait for one another spin for some microseconds, then sleep. On a machine that
# is busy with other work too, a step otherwise takes several times as long.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

try:
    from mmkit.cli.main import main
except KeyboardInterrupt:  # before ``main`` could say it
    sys.stderr.write("mmkit: interrupted\n")
    sys.exit(130)

__all__ = ["main"]

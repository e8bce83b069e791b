"""Imported by the process that loading workers are forked from, where that is a server: it lives as long as they do.

A batch system tells all processes of a job to stop. The ranks then finish their step, for which they need their
workers; and workers end when their server does. So it does not listen: it ends when its rank has.
"""

from __future__ import annotations

import signal
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

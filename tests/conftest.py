"""Settings of every test: one thread for each process, as tests run in two processes at a time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

"""``python -m mmkit`` is the ``mmkit`` command, also where the package is not installed as a script.

Python looks for modules in the current folder first, which may be a stranger's: it is taken off the path, as for the
script, unless it is the folder that this mmkit lies in.
"""

import os
import sys

HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()) != HERE:
    del sys.path[0]

from mmkit.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

"""``python -m mmkit ...`` is ``mmkit ...``."""

import sys

from mmkit.cli import main

sys.exit(main())

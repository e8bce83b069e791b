"""The names of open_clip's models, told without open_clip."""

import subprocess
import sys

import open_clip

PROGRAM = """
import sys
from mmkit.hub.open_clip.name import architectures
print(*architectures(), "torch" in sys.modules)
"""


def test_architectures_are_those_that_open_clip_lists():
    *found, imported = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True).stdout.split()
    wanted = {name for name in open_clip.list_models() if not name.startswith("tiny")}  # other tests add some
    assert (set(found), imported) == (wanted, "False")

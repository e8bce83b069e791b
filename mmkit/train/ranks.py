"""What the processes of a run do together: under its old name, see ``mmkit.ranks``."""

from mmkit.ranks import gather_objects, on_first

__all__ = ["gather_objects", "on_first"]

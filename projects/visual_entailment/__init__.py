"""A sentence entailed, contradicted or left open by a picture (SNLI-VE)."""

LOADABLE = {"experiment": ("data:SNLIVE",)}
"""What the config of a run may name of this project; see ``mmkit/config/allowed.py``."""

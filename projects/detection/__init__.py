"""Objects in pictures: DETR and its relatives, Faster R-CNN, SSD on the shared image tower."""

LOADABLE = {
    "head": ("head:DETR",),
}
"""What a saved model, or the config of a run, may name of this project; see ``mmkit/config/allowed.py``."""

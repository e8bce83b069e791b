"""Objects in pictures: DETR and its relatives, Faster R-CNN, SSD on the shared image tower."""

LOADABLE = {
    "head": ("head:DETR", "two_stage:FasterRCNN", "ssd:SSD"),
    "experiment": ("data:Few",),
}
"""What a saved model, or the config of a run, may name of this project; see ``mmkit/config/allowed.py``."""

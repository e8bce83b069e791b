"""Heads of boxes: a batch's objects, truth as DETR compares it, set matching, losses of pairs, maps for anchors."""

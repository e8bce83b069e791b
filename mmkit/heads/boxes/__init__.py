"""Heads of boxes: the objects of a batch, truth as DETR compares it, set matching and the losses of pairs."""

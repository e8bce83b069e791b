"""How well captions are written: their words, and the scores of the COCO caption evaluation (Chen et al. 2015)."""

"""Average precision of found boxes, as COCO, LVIS and VOC count it, over data and alone."""

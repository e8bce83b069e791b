"""Published and usual forms of boxes: COCO, LVIS, VOC, YOLO, phrases with boxes."""

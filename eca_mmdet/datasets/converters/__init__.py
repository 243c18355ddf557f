"""Labels that other tools wrote: YOLO, Pascal VOC, LabelMe and CVAT."""

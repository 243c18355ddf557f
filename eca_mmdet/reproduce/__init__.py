"""Measure the rows of the published tables on COCO, and lay both side by side."""

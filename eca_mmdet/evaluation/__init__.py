"""COCO evaluation: the AP table."""

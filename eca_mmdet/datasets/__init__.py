"""Datasets: the generated shapes of the demo; checks and repair of COCO files."""

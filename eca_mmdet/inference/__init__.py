"""Trained detectors on images: see :class:`ECADetector`."""

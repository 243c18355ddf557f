"""Import this to have mmdet, our classes and the training's modules in memory."""

import sys

from eca_mmdet import registration

registration.register()

import mmdet.models  # noqa: E402

import eca_mmdet.training.runner  # noqa: E402, F401

assert sys.modules['mmdet.models'] is mmdet.models

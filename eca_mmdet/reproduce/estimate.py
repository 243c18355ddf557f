"""How long a plan takes, from the time of one image on this device."""

from __future__ import annotations

from collections.abc import Sequence

from eca_mmdet.reproduce.plan import Job
from eca_mmdet.reproduce.run import Setting

TRAIN_IMAGES = 117_266
"""Of train2017 that have objects, which is what mmdet trains on."""

EPOCHS = 12
BACKWARD = 3
"""A training step costs about three times its forward pass."""

SHAPE = (800, 1216)
"""A usual size of a photo whose shorter side is 800."""


def estimate_hours(jobs: Sequence[Job], setting: Setting) -> dict[str, float]:
    """Return hours by row for the jobs that can be done.

    The first job's detector is timed on one image with random weights, after a first
    one that does not count; the others follow by their GFLOPs.
    """
    from mmengine.device import get_device

    from eca_mmdet.analysis.latency import measure
    from eca_mmdet.analysis.paper_cost import paper_cost
    from eca_mmdet.engine.config import build_model, load_config

    todo = [job for job in jobs if job.action != 'none']
    if not todo:
        return {}
    options = (*todo[0].options, *setting.options)
    model = build_model(load_config(todo[0].config, options)).to(get_device())
    model.eval()
    timed = measure([('first', model)], SHAPE, rounds=1, warm_up=1)
    seconds = timed['models']['first']['detector_ms'] / 1000
    flops = {
        job.row.row: paper_cost(build_model(load_config(job.config), 'meta'))
        for job in todo
    }
    first = flops[todo[0].row.row]['gflops']
    hours = {}
    for job in todo:
        images = setting.coco.counts['images']
        if job.action == 'train':
            images += TRAIN_IMAGES * EPOCHS * BACKWARD
        scaled = seconds * flops[job.row.row]['gflops'] / first
        hours[job.row.row] = images * scaled / setting.devices / 3600
    return hours

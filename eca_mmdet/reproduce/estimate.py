"""Time that a plan takes, from the time of one image on this device."""

from __future__ import annotations

from collections.abc import Sequence

from eca_mmdet.reproduce.plan import Job
from eca_mmdet.reproduce.run import Settings

_TRAINING = 117_266 * 12 * 3
"""Forward passes of a training: images of train2017 with objects, epochs, and three for
a step with its backward pass."""

_SHAPE = (800, 1216)
"""A usual size of an image whose shorter side is 800."""


def estimate_hours(jobs: Sequence[Job], settings: Settings) -> dict[str, float]:
    """Return hours by row for the jobs that can be done.

    The first job's detector is timed on one image with random weights, after a warm-up;
    the others follow by their GFLOPs.
    """
    from mmengine.device import get_device

    from eca_mmdet.analysis.latency import measure
    from eca_mmdet.analysis.paper_cost import paper_cost
    from eca_mmdet.engine.config import build_model, load_config

    todo = [job for job in jobs if job.action != 'none']
    if not todo:
        return {}
    options = (*todo[0].options, *settings.options)
    model = build_model(load_config(todo[0].config, options)).to(get_device())
    timed = measure([('first', model.eval())], _SHAPE, rounds=1, warm_up=1)
    seconds = timed['models']['first']['detector_ms'] / 1000
    models = (build_model(load_config(job.config), 'meta') for job in todo)
    flops = [paper_cost(model)['gflops'] for model in models]
    tested = settings.coco.counts['images']
    return {
        job.row.row: seconds
        * (own / flops[0])
        * (tested + (_TRAINING if job.action == 'train' else 0))
        / settings.devices
        / 3600
        for job, own in zip(todo, flops, strict=True)
    }

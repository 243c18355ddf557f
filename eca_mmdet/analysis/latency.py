"""Latency of backbones and detectors, measured side by side in one run."""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from eca_mmdet.engine.config import build_model, silence_known_warnings

WARM_UP = 3
ROUNDS = 10


def time_configs(
    configs: Mapping[str, Any], shape: tuple[int, int], rounds: int = ROUNDS
) -> dict[str, Any]:
    """Time detectors with random weights on the best device, in turns, on one image.

    ``shape`` is the width and height of the input in pixels.

    Returns:
        ``setting`` of the run, and ``models``: for each name the median milliseconds of
        ``backbone_ms`` and ``detector_ms``, and the ratio of each to the first model's.
        The detector's time is from the normalised image to the boxes (and masks).
    """
    from mmengine.device import get_device

    silence_known_warnings()
    image = torch.rand(1, 3, shape[1], shape[0], device=get_device())
    runs: list[Callable[[], Any]] = []
    for cfg in configs.values():
        model = build_model(cfg).to(image.device)
        model.eval()
        runs.append(functools.partial(model.backbone, image))
        runs.append(functools.partial(_detect, model, image))
    with torch.no_grad():
        times = medians(runs, image.device, rounds, WARM_UP)
    return {
        'setting': setting(image),
        'rounds': rounds,
        'models': {
            name: {
                'backbone_ms': backbone,
                'detector_ms': detector,
                'backbone_ratio': backbone / times[0],
                'detector_ratio': detector / times[1],
            }
            for name, backbone, detector in zip(
                configs, times[::2], times[1::2], strict=True
            )
        },
    }


def training_steps(backbones: Sequence[Any], shape: Sequence[int]) -> list[float]:
    """Return each backbone's median milliseconds of a training step on the CPU.

    They are timed in turns and put into training mode; ``shape`` is (N, 3, H, W).
    """
    images = torch.rand(*shape)
    for backbone in backbones:
        backbone.train()

    def step(backbone: Any) -> None:
        sum(features.sum() for features in backbone(images)).backward()

    runs = [functools.partial(step, backbone) for backbone in backbones]
    return medians(runs, images.device, ROUNDS, WARM_UP)


def _detect(model: Any, image: torch.Tensor) -> Any:
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[-2:])
    sizes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    metainfo = {**dict.fromkeys(sizes, size), 'scale_factor': (1.0, 1.0)}
    return model.predict(image, [DetDataSample(metainfo=metainfo)], rescale=True)


def medians(
    runs: Sequence[Callable[[], Any]],
    device: torch.device,
    rounds: int,
    warm_up: int,
) -> list[float]:
    """Return the median milliseconds of each run, work started on the device included.

    A round measures every run once, so that all meet the same state of the machine.
    Rounds of the warm-up do not count.
    """

    def wait() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)

    times: list[list[float]] = [[] for _ in runs]
    for _ in range(warm_up + rounds):
        for run, spent in zip(runs, times, strict=True):
            wait()
            start = time.perf_counter()
            run()
            wait()
            spent.append((time.perf_counter() - start) * 1000)
    return [statistics.median(spent[warm_up:]) for spent in times]


def setting(image: torch.Tensor) -> dict[str, Any]:
    """Return what a time depends on besides the model."""
    name = platform.processor() or platform.machine()
    if image.device.type == 'cuda':
        name = torch.cuda.get_device_name(image.device)
    return {
        'device': image.device.type,
        'name': name,
        'threads': torch.get_num_threads(),
        'dtype': str(image.dtype).removeprefix('torch.'),
        'memory_format': 'contiguous',
        'torch': torch.__version__,
        'shape': list(image.shape),
    }

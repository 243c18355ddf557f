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
    """Time detectors with random weights on the best device, as :func:`measure` does.

    ``shape`` is the width and height of the input in pixels.
    """
    from mmengine.device import get_device

    silence_known_warnings()
    device = get_device()
    models = []
    for name, cfg in configs.items():
        model = build_model(cfg)
        model.init_cfg = None
        models.append((name, model.to(device)))
        model.eval()
    return measure(models, (shape[1], shape[0]), rounds)


def measure(
    models: Sequence[tuple[str, Any]],
    shape: tuple[int, int],
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """Time several detectors in turns, on one image of a height and width in pixels.

    The models are on one device, in eval mode. The rounds of the warm-up do not count.

    Returns:
        ``setting`` of the run, and ``models``: for each name the median milliseconds of
        ``backbone_ms`` and ``detector_ms``, and the ratio of each to the first model's.
        The detector's time is from the normalised image to the boxes (and masks).
    """
    parameter = next(models[0][1].parameters())
    image = torch.rand(1, 3, *shape, device=parameter.device, dtype=parameter.dtype)
    runs: list[Callable[[], Any]] = []
    for _, model in models:
        runs.append(functools.partial(model.backbone, image))
        runs.append(functools.partial(_detect, model, image))
    with torch.no_grad():
        times = medians(runs, image.device, rounds, warm_up)
    return {
        'setting': setting(parameter, image),
        'rounds': rounds,
        'models': {
            name: {
                'backbone_ms': backbone,
                'detector_ms': detector,
                'backbone_ratio': backbone / times[0],
                'detector_ratio': detector / times[1],
            }
            for (name, _), backbone, detector in zip(
                models, times[::2], times[1::2], strict=True
            )
        },
    }


def training_steps(
    backbones: Sequence[Any],
    shape: Sequence[int],
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
) -> list[float]:
    """Return each backbone's median milliseconds of a training step, in turns.

    The backbones are put into training mode; ``shape`` is (N, 3, H, W).
    """
    parameter = next(backbones[0].parameters())
    images = torch.rand(*shape, device=parameter.device, dtype=parameter.dtype)
    for backbone in backbones:
        backbone.train()

    def step(backbone: Any) -> None:
        sum(features.sum() for features in backbone(images)).backward()

    runs = [functools.partial(step, backbone) for backbone in backbones]
    return medians(runs, images.device, rounds, warm_up)


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


def setting(parameter: torch.Tensor, image: torch.Tensor) -> dict[str, Any]:
    """Return what a time depends on besides the model."""
    device = parameter.device
    name = platform.processor() or platform.machine()
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    channels_last = image.is_contiguous(memory_format=torch.channels_last)
    return {
        'device': device.type,
        'name': name,
        'threads': torch.get_num_threads(),
        'dtype': str(parameter.dtype).removeprefix('torch.'),
        'memory_format': 'channels_last' if channels_last else 'contiguous',
        'torch': torch.__version__,
        'shape': list(image.shape),
    }

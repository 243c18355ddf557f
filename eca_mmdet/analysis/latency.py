"""Latency of backbones and detectors, measured side by side in one run."""

from __future__ import annotations

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
    """Time detectors with random weights on the best device there is.

    Args:
        configs: mmengine's, by name.
        shape: width and height of the input, in pixels.
        rounds: each measures every model once.

    Returns:
        As :func:`measure`.
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
    """Time several detectors in turns, so that all meet the same moods of a machine.

    Args:
        models: names and detectors, on one device, in eval mode.
        shape: height and width of the input, one image, in pixels.
        rounds: each measures every model once.
        warm_up: rounds before, which do not count.

    Returns:
        ``setting`` of the run, and ``models``: for each name the median milliseconds of
        ``backbone_ms`` and ``detector_ms``, and the ratio of each to the first model's.
        The detector's time is from the normalised image to the boxes (and masks).
    """
    parameter = next(models[0][1].parameters())
    image = torch.rand(1, 3, *shape, device=parameter.device, dtype=parameter.dtype)
    times: dict[tuple[str, str], list[float]] = {}
    with torch.no_grad():
        for index in range(warm_up + rounds):
            for name, model in models:
                runs = {
                    'backbone_ms': lambda model=model: model.backbone(image),
                    'detector_ms': lambda model=model: _detect(model, image),
                }
                for part, run in runs.items():
                    spent = milliseconds(run, image.device)
                    if index >= warm_up:
                        times.setdefault((name, part), []).append(spent)
    medians = {key: statistics.median(spent) for key, spent in times.items()}
    first = models[0][0]
    return {
        'setting': setting(parameter, image),
        'rounds': rounds,
        'models': {
            name: {part: medians[name, part] for part in ('backbone_ms', 'detector_ms')}
            | {
                f'{part.removesuffix("_ms")}_ratio': medians[name, part]
                / medians[first, part]
                for part in ('backbone_ms', 'detector_ms')
            }
            for name, _ in models
        },
    }


def training_steps(
    backbones: Sequence[Any],
    shape: Sequence[int],
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
) -> list[float]:
    """Return each backbone's median milliseconds of a training step, in turns.

    Args:
        backbones: on one device; they are put into training mode.
        shape: (N, 3, H, W) of the images.
        rounds: each runs every backbone once, forward and backward.
        warm_up: rounds before, which do not count.
    """
    parameter = next(backbones[0].parameters())
    images = torch.rand(*shape, device=parameter.device, dtype=parameter.dtype)
    spent: list[list[float]] = [[] for _ in backbones]
    for backbone in backbones:
        backbone.train()
    for index in range(warm_up + rounds):
        for backbone, times in zip(backbones, spent, strict=True):

            def step(backbone: Any = backbone) -> None:
                sum(one.sum() for one in backbone(images)).backward()

            once = milliseconds(step, images.device)
            if index >= warm_up:
                times.append(once)
    return [statistics.median(times) for times in spent]


def _detect(model: Any, image: torch.Tensor) -> Any:
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[-2:])
    sample = DetDataSample(
        metainfo={
            'img_shape': size,
            'ori_shape': size,
            'pad_shape': size,
            'batch_input_shape': size,
            'scale_factor': (1.0, 1.0),
        }
    )
    return model.predict(image, [sample], rescale=True)


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return how long ``run`` takes, what it starts on the device included."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return (time.perf_counter() - start) * 1000


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


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

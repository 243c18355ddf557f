"""The 1x1 convolutions of a ResNet-50 as convolutions and as matrix products.

    python benchmarks/benchmark_layers.py [--rounds 15]

Forward and backward of two images of 400 x 672 pixels, in turns, in one run; the
products scale the weights as well, as a folded norm has it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
from torch import Tensor, nn

from eca_mmdet.models.lean.fused import conv_norm

LAYERS = (
    *((256, 64, 100, 168), (64, 256, 100, 168), (512, 128, 50, 84)),
    *((128, 512, 50, 84), (1024, 256, 25, 42), (256, 1024, 25, 42)),
    *((2048, 512, 13, 21), (512, 2048, 13, 21)),
)
"""Channels and size of ResNet-50's 1x1 convolutions on 400 x 672 pixels."""


def main(argv: list[str] | None = None) -> int:
    """Print both times and their ratio for each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=15)
    args = parser.parse_args(argv)
    print(f'{os.cpu_count()} cores, torch {torch.__version__}, {date.today()}')
    print('forward and backward, ms: convolution, matrix product (median ratio)')
    total = {'convolution': 0.0, 'product': 0.0}
    for layer in LAYERS:
        times = measure(*layer, args.rounds)
        pairs = zip(times['product'], times['convolution'], strict=True)
        share = statistics.median(a / b for a, b in pairs)
        medians = {name: statistics.median(one) for name, one in times.items()}
        total = {name: total[name] + one for name, one in medians.items()}
        inputs, outputs, height, width = layer
        print(
            f'{inputs:4} to {outputs:4} at {height:3} x {width:3}: '
            f'{medians["convolution"]:6.1f} {medians["product"]:6.1f} ({share:.2f})'
        )
    print(f'all of them: {total["convolution"]:.1f} {total["product"]:.1f}')
    return 0


def measure(
    inputs: int, outputs: int, height: int, width: int, rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds of every round, after one to warm up."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    norm = nn.BatchNorm2d(outputs).eval()
    x = torch.randn(2, inputs, height, width, requires_grad=True)
    ways: dict[str, Callable[[], Tensor]] = {
        'convolution': lambda: conv(x),
        'product': lambda: conv_norm(x, conv, norm),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            out = way()
            out.backward(torch.ones_like(out))
            if number:
                found[name].append(1e3 * (time.perf_counter() - start))
    return found


if __name__ == '__main__':
    raise SystemExit(main())

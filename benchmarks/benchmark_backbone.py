"""Memory and time of ECA-ResNet, formulation beside formulation, in one run.

    python benchmarks/benchmark_backbone.py [--depths 50 101] [--rounds 7]

Every network has the same weights; features and gradients of the formulations of one
network are compared before anything is measured. Times are medians of rounds in which
every network takes its turn, another one first each time, and a ratio is the median of
the rounds' own ratios to mmdet's plain ResNet.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from formulations import (
    COMPILED,
    FORMULATIONS,
    NETWORKS,
    OFFICIAL,
    PLAIN,
    build,
    register_layers,
)
from torch import Tensor, nn

from eca_mmdet import registration

TRAIN_SIZE, TEST_SIZE = (2, 3, 400, 672), (1, 3, 800, 1216)
COCO = dict(frozen_stages=1, norm_eval=True)
FREE = dict(frozen_stages=-1, norm_eval=False)
DETECTOR = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
DETECTORS = (PLAIN, OFFICIAL, 'ECA, plain', 'ECA, lean', 'no gate, lean')
MIB, WIDTH = 2**20, 30


def main(argv: list[str] | None = None) -> int:
    """Compare, measure, print; 1 if two formulations of ECA differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--depths', type=int, nargs='+', default=[50, 101])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--width', type=int, default=64, help='base channels')
    parser.add_argument('--scale', type=float, default=1, help='of the image sizes')
    parser.add_argument(
        '--fast', action='store_true', help='the inference of test --fast alone'
    )
    parser.add_argument(
        '--detectors',
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also a Mask R-CNN's training step",
    )
    parser.add_argument(
        '--compile', action='store_true', help='also torch.compile: minutes a network'
    )
    parser.add_argument('--detector-of', choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    registration.register()
    register_layers()
    if args.detector_of:
        print(json.dumps(detector_peak(args)))
        return 0
    print_method(args)
    if args.fast:
        for depth in args.depths:
            print(f'ResNet-{depth}, ', end='')
            measure_fast(build_all(depth, args, **COCO), args)
        return 0
    equal = all([measure(depth, args) for depth in args.depths])
    if args.detectors:
        measure_detectors(args)
    return 0 if equal else 1


def print_method(args: argparse.Namespace) -> None:
    """Say what is measured, on what."""
    print(f'{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads,')
    print(f'torch {torch.__version__}, {date.today()}; no GPU was used')
    print(f'kept: bytes that autograd keeps for backward of {size(TRAIN_SIZE, args)}:')
    print('  storages of saved tensors, each once, without parameters and buffers')
    print(f'step: forward and backward of {size(TRAIN_SIZE, args)}, stage 1 frozen,')
    print(f'  norms in evaluation mode; inference: {size(TEST_SIZE, args)}, float32')
    print(f'medians of {args.rounds} rounds; (ratios) are to {PLAIN}')


def cpu_name() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        with open('/proc/cpuinfo') as lines:
            names = [one for one in lines if one.startswith('model name')]
        return names[0].partition(':')[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def size(shape: tuple[int, ...], args: argparse.Namespace) -> list[int]:
    """Return a shape with its height and width scaled."""
    return [*shape[:2], *(int(one * args.scale) for one in shape[2:])]


def build_all(depth: int, args: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """Return every network, with the same convolutions, norms and ECA gates."""
    # With batch statistics only what is kept is measured: not worth a compilation.
    known = NETWORKS | (COMPILED if args.compile and settings == COCO else {})
    networks = {name: build(name, depth, args.width, **settings) for name in known}
    weights = networks[OFFICIAL].state_dict()
    for network in networks.values():
        network.load_state_dict(weights, strict=False)
        network.train()
    return networks


def measure(depth: int, args: argparse.Namespace) -> bool:
    """Print the table of one depth; tell whether the formulations agree."""
    networks, free = (build_all(depth, args, **one) for one in (COCO, FREE))
    equal = agree(networks) and agree(free)
    columns = {
        'kept, MiB': kept(networks, args),
        'all trained, MiB': kept(free, args),
        'step, s': times(networks, train_step, TRAIN_SIZE, args),
    }
    del free
    for network in networks.values():
        network.eval()
    columns['inference, s'] = times(networks, infer, TEST_SIZE, args)
    print(f'\nResNet-{depth}: the formulations agree: {equal}')
    print(' ' * WIDTH + ''.join(f'{title:>20}' for title in columns))
    for name in networks:
        cells = []
        for title, column in columns.items():
            if name not in column:
                cells.append(f'{"-":>13}{"":7}')
                continue
            digits = 3 if title.endswith(' s') else 1
            value = statistics.median(column[name])
            cells.append(f'{value:13.{digits}f}{f"({ratio(column, name):.2f})":>7}')
        print(f'{name:{WIDTH}}' + ''.join(cells))
    measure_fast(networks, args)
    return equal


def ratio(column: dict[str, list[float]], name: str, to: str = PLAIN) -> float:
    """Return the median over rounds of one network's share of another's."""
    pairs = zip(column[name], column[to], strict=True)
    return statistics.median(a / b for a, b in pairs)


def agree(networks: dict[str, Any]) -> bool:
    """Compare features and gradients in float64: of ECA, and of no gate."""
    return all(
        (one - other).norm() <= 1e-8 * one.norm() + 1e-12
        for first, *others in FORMULATIONS
        for expected in [results(networks[first])]
        for name in others
        if name in networks
        for one, other in zip(expected, results(networks[name]), strict=True)
    )


def results(network: Any) -> list[Tensor]:
    """Return features and gradients of a small image, in float64."""
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(network).double()
    if network._compiled_call_impl is not None:  # which a copy does not have
        twin.compile(dynamic=False)
    features = twin(x.double())
    sum(one.square().mean() for one in features).backward()
    grads = [one.grad for one in twin.parameters() if one.grad is not None]
    return [*(one.detach() for one in features), *grads]


def kept(networks: dict[str, Any], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the MiB that each network keeps for backward."""
    from eca_mmdet.analysis.exact_cost import SavedBytes

    x = torch.randn(size(TRAIN_SIZE, args))
    found = {}
    for name, network in networks.items():
        with SavedBytes(network) as saved:
            network(x)
        found[name] = [saved.total / MIB]
    return found


def times(
    networks: dict[str, Any],
    run: Callable[[Any, Tensor], None],
    shape: tuple[int, ...],
    args: argparse.Namespace,
) -> dict[str, list[float]]:
    """Return the seconds of every round, after one to warm up."""
    x = torch.randn(size(shape, args))
    found: dict[str, list[float]] = {name: [] for name in networks}
    names = list(networks)
    for number in range(args.rounds + 1):
        for name in names:
            start = time.perf_counter()
            run(networks[name], x)
            if number:
                found[name].append(time.perf_counter() - start)
        names.append(names.pop(0))
    return found


def train_step(network: Any, x: Tensor) -> None:
    """Run forward and backward."""
    network.zero_grad(set_to_none=True)
    sum(one.mean() for one in network(x)).backward()


def infer(network: Any, x: Tensor) -> None:
    """Run forward alone."""
    with torch.no_grad():
        network(x)


class _Features(nn.Module):
    """As much of a detector as ``make_fast`` asks for."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def extract_feat(self, x: Tensor) -> Any:
        return self.backbone(x)

    def forward(self, x: Tensor) -> Any:
        return self.extract_feat(x)


def measure_fast(networks: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the inference of ``test --fast`` beside the official layer's in float32."""
    from eca_mmdet.inference.fast import make_fast

    for network in networks.values():
        network.eval()
    fast = make_fast(_Features(networks['ECA, lean']))
    both = {OFFICIAL: networks[OFFICIAL], 'fast': fast}
    found = times(both, infer, TEST_SIZE, args)
    print(
        f'--fast: {statistics.median(found["fast"]):.3f} s, the official layer in '
        f'float32 {statistics.median(found[OFFICIAL]):.3f} s: '
        f'{ratio(found, OFFICIAL, "fast"):.2f} times faster'
    )


def measure_detectors(args: argparse.Namespace) -> None:
    """Print the memory that a training step of Mask R-CNN takes, a process each."""
    shape = size(TRAIN_SIZE, args)
    print(f'\nMask R-CNN R-50, a training step of {shape} in a process of its own:')
    found = {}
    for name in DETECTORS:
        command = [sys.executable, __file__, '--detector-of', name]
        options = ['--scale', str(args.scale), '--width', str(args.width)]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        before, peak = found[name]
        share = (peak - before) / (found[PLAIN][1] - found[PLAIN][0])
        print(
            f'{name:{WIDTH}} peak {peak:6.0f} MiB ({peak / found[PLAIN][1]:.2f}), '
            f'the step itself {peak - before:6.0f} MiB ({share:.2f})'
        )


def detector_peak(args: argparse.Namespace) -> list[float]:
    """Return the resident MiB of this process before a step, and at its highest."""
    model = detector(args.detector_of, args.width)
    height, width = size(TRAIN_SIZE, args)[2:]
    data = model.data_preprocessor(objects(height, width), training=True)
    before = resident('VmRSS')
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    return [before, resident('VmHWM')]


def detector(name: str, width: int, config: str = DETECTOR) -> Any:
    """Return a detector of a config around one of the backbones, for training."""
    from mmdet.registry import MODELS
    from mmengine.config import Config

    from eca_mmdet.catalog.configs import resolve_config

    cfg = Config.fromfile(str(resolve_config(config))).model
    cfg.backbone = dict(type='ResNet', depth=18)
    cfg.neck.in_channels = [4 * width * 2**stage for stage in range(4)]
    model = MODELS.build(cfg)
    model.backbone = build(name, 50, width, **COCO)
    return model.train()


def objects(height: int, width: int) -> Any:
    """Return two images with eight objects each, as a data loader does."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        2, [[3, height, width]] * 2, num_items=[8, 8], num_classes=80, with_mask=True
    )


def resident(name: str) -> float:
    """Return this process's resident MiB, now (VmRSS) or at its highest (VmHWM).

    ``getrusage`` would give that of the process that started this one, if higher.
    """
    with open('/proc/self/status') as lines:
        found = [line.split()[1] for line in lines if line.startswith(f'{name}:')]
    return int(found[0]) / 1024


if __name__ == '__main__':
    raise SystemExit(main())

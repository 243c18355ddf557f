"""Operators and bytes of a backbone's step along the code path that CUDA takes.

    python benchmarks/gpu_cost.py [--depths 50 101] [--batches 1 2 16] [--networks NAME]

Nothing is computed: tensors are fake, of the CPU, and say that they are on CUDA. An
operator that PyTorch dispatches counts once, with the storage of its inputs and
outputs; views and allocations do not count. A Triton kernel of this package is one
operator. What a library's operator launches within (three kernels in the backward of a
convolution) is not seen, for any network. ``kept`` are the storages of saved tensors,
without parameters and buffers. Times are predicted, by a roofline: no GPU was used.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from counting import moved_bytes
from formulations import NETWORKS, OFFICIAL, PLAIN, build, register_layers
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from eca_mmdet import registration
from eca_mmdet.analysis.exact_cost import SavedBytes

DTYPES = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
SHOWN = (PLAIN, OFFICIAL, 'ECA, plain', 'ECA, lean', 'no gate, lean')


@dataclass
class Gpu:
    """GB/s and TFLOP/s of a data sheet; None where the format is not supported.

    NVIDIA's data sheets "T4 Tensor Core GPU" (2019; 320 GB/s), "A100 Tensor Core GPU"
    (80 GB SXM) and "H100 Tensor Core GPU" (SXM), dense rates; TF32 for float32 on the
    latter two, PyTorch's default for convolutions.
    """

    bandwidth: float
    rates: dict[str, float | None]


GPUS = {
    'T4': Gpu(320, {'fp32': 8.1, 'bf16': None, 'fp16': 65}),
    'A100': Gpu(2039, {'fp32': 156, 'bf16': 312, 'fp16': 312}),
    'H100': Gpu(3350, {'fp32': 494, 'bf16': 989, 'fp16': 989}),
}
KERNEL, HOST, TRITON_HOST = 2e-6, 6e-6, 20e-6
"""Seconds, assumed, in no data sheet: the shortest kernel; the host's part of an
operator of PyTorch; and of a Triton kernel, which Python launches."""


@dataclass
class Cost:
    """What was dispatched: (bytes, floating-point operations) of every operator."""

    operators: list[tuple[int, int]] = field(default_factory=list)
    own: int = 0
    kept: int = 0

    @property
    def gigabytes(self) -> float:
        """Bytes read and written, in 10^9."""
        return sum(size for size, _ in self.operators) / 1e9

    def seconds(self, gpu: Gpu, dtype: str) -> float | None:
        """Predict the time: of the kernels or, if longer, of the host."""
        rate = gpu.rates[dtype]
        if rate is None:
            return None
        kernels = (
            max(size / gpu.bandwidth / 1e9, work / rate / 1e12, KERNEL)
            for size, work in self.operators
        )
        host = HOST * (len(self.operators) - self.own) + TRITON_HOST * self.own
        return max(sum(kernels), host)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        size = moved_bytes(func, args, kwargs, out)
        if size is not None:
            formula = flop_registry.get(func.overloadpacket)
            work = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
            self.cost.operators.append((size, work))
            self.cost.own += func.namespace == 'eca_mmdet'
        return out


@contextlib.contextmanager
def cuda_path() -> Iterator[None]:
    """Make tensors fake, and let them say that they are on CUDA."""
    FakeTensor.is_cuda = property(lambda _: True)
    try:
        with FakeTensorMode():
            yield
    finally:
        del FakeTensor.is_cuda


def measure(
    name: str, depth: int, batch: int, dtype: str, training: bool, size: tuple[int, int]
) -> Cost:
    """Count a training step, stage 1 frozen and norms in evaluation mode, or inference.

    The loss is the sum of all features.
    """
    precision = DTYPES[dtype]
    with cuda_path():
        network = build(name, depth, 64, frozen_stages=1, norm_eval=True)
        network.train(training)
        x = torch.empty(batch, 3, *size)
        autocast: Any = contextlib.nullcontext()
        if precision is not None:
            autocast = torch.autocast('cpu', dtype=precision)
        with _Counter() as counter, torch.set_grad_enabled(training):
            with SavedBytes(network) as saved, autocast:
                features = network(x)
            if training:
                sum(one.float().sum() for one in features).backward()
    counter.cost.kept = saved.total
    return counter.cost


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--depths', type=int, nargs='+', default=[50, 101])
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 2, 16])
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=SHOWN)
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1344))
    args = parser.parse_args(argv)
    registration.register()
    register_layers()
    for depth in args.depths:
        for batch in args.batches:
            for dtype in args.dtypes:
                for training in (True, False):
                    table(depth, batch, dtype, training, args)
    return 0


def table(
    depth: int, batch: int, dtype: str, training: bool, args: argparse.Namespace
) -> None:
    """Print the networks beside each other, with ratios to mmdet's plain ResNet."""
    height, width = args.size
    kind = 'a training step' if training else 'inference'
    print(f'\nResNet-{depth}, {kind}, {batch} x 3 x {height} x {width}, {dtype}')
    print(f'{"":22}{"operators":>16}{"GB":>16}{"kept, MiB":>16}', end='')
    print(''.join(f'{f"{gpu}, predicted ms":>26}' for gpu in GPUS))
    settings = (depth, batch, dtype, training, tuple(args.size))
    plain = measure(PLAIN, *settings)
    for name in args.networks:
        cost = plain if name == PLAIN else measure(name, *settings)
        pairs = [
            (len(cost.operators), len(plain.operators)),
            (cost.gigabytes, plain.gigabytes),
            (cost.kept / 2**20, plain.kept / 2**20),
        ]
        cells = [f'{cell(*pair):>16}' for pair in pairs]
        for gpu in GPUS.values():
            times = [one.seconds(gpu, dtype) for one in (cost, plain)]
            known = None not in times
            text = cell(1e3 * times[0], 1e3 * times[1]) if known else '-'
            cells.append(f'{text:>26}')
        print(f'{name:22}' + ''.join(cells))


def cell(value: float, plain: float) -> str:
    """Return a value and its ratio to plain's."""
    number = f'{value:.0f}' if isinstance(value, int) else f'{value:.1f}'
    return f'{number} ({value / plain:.2f})' if plain else number


if __name__ == '__main__':
    raise SystemExit(main())

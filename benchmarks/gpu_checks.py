"""Checks and timings of what only a GPU runs; benchmarks/gpu.sh runs all of them.

Each check has a process and a time limit of its own. It prints a JSON line for each
result, with ``ok: false`` where the device gives other values than the CPU or a command
fails, and one for itself at its end.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import mmcv
import mmdet
import torch
import torchvision
from benchmark_backbone import COCO, MIB, _Features, detector, objects
from formulations import COMPILED, NETWORKS, OFFICIAL, PLAIN, build, register_layers
from mmcv import ops
from startup import config_text, write_split
from torch import Tensor
from torch.profiler import ProfilerActivity

from eca_mmdet import registration
from eca_mmdet.inference.fast import make_fast
from eca_mmdet.models.lean.kernels import is_fused

LEAN, UNFUSED = 'ECA, lean', 'ECA, plain'
CONFIGS = ('mask-rcnn_eca-r50_fpn_4xb2-1x_coco', 'retinanet_eca-r50_fpn_4xb2-1x_coco')
PRECISIONS = ('bfloat16', 'tf32', 'float32', 'float16')
SCALES = {'float16': 1024}  # of the loss, as a gradient scaler has it
ARGS = argparse.Namespace()
FAILED: list[Any] = []


def versions() -> None:
    """Report the machine."""
    gpu = torch.cuda.get_device_properties() if ARGS.device == 'cuda' else None
    known = {m.__name__: m.__version__ for m in (torch, torchvision, mmcv, mmdet)}
    report(**known, cudnn=torch.backends.cudnn.version(), device=str(gpu))
    if ARGS.device == 'cuda':  # without them, lean runs and is slow
        report(is_fused(torch.ones(1, device='cuda')), what='Triton kernels')


def operators() -> None:
    """Compare mmcv's operators, as supplied here, with the CPU in float64."""
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'  # for the deterministic one
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 8, 24, 32), (2, 18, 24, 32), (4, 8, 3, 3), (200, 5)
    x, offset, weight, logits = (torch.randn(s, generator=draw) for s in sizes)
    boxes = (torch.rand(40, 4, generator=draw) * 60).round() / 2  # exact in bfloat16
    boxes[:, 2:] += boxes[:, :2]
    rois = torch.cat([(torch.arange(40) % 2)[:, None], boxes], 1)
    labels, scores = torch.arange(200) % 6, torch.rand(40, generator=draw)
    known: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        'nms': (lambda x: ops.nms(x.detach(), scores.to(x), 0.5)[0], [boxes]),
        'roi_align': (
            lambda x: ops.roi_align(x, rois.to(x), 7, 0.5, 0, 'avg', True), [x]),
        'sigmoid_focal_loss': (lambda x: ops.sigmoid_focal_loss(
            x, labels.to(x.device), 2.0, 0.25, None, 'none'), [logits]),
        'deform_conv2d': (
            lambda *x: ops.deform_conv2d(*x, 1, 1), [x, offset, weight]),
    }  # fmt: skip
    limits = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
    cases = [(name, dtype, False) for name, dtype in product(known, limits)]
    cases = [case for case in cases if case[0] != 'nms' or case[1] == torch.float32]
    for name, dtype, fixed in [*cases, ('roi_align', torch.float32, True)]:
        with guarded(operator=name, dtype=str(dtype), deterministic=fixed) as what:
            function, inputs = known[name][0], [x.to(dtype) for x in known[name][1]]
            expected = gradients(function, [x.double() for x in inputs], 'cpu')
            torch.use_deterministic_algorithms(fixed)
            error = distance(gradients(function, inputs, ARGS.device), expected)
            report(error <= limits[dtype], **what, error=error)


def gradients(function: Any, inputs: list[Tensor], device: str) -> list[Tensor]:
    """Return a function's result and the gradients of its inputs."""
    leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
    result = function(*leaves)
    if result.requires_grad:
        result.double().square().sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def equality() -> None:
    """Compare lean and plain ECA-ResNets with plain in float64 on the CPU."""
    image = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    exact = network(UNFUSED, device='cpu').double()
    expected = {n: results(exact, image[:n].double(), 'float32') for n in (1, 2, 3)}
    cases = [*product(PRECISIONS, (False, True), (2,), (False,)),
             *product(PRECISIONS[::2], (False,), (1, 3), (False,)),
             ('bfloat16', False, 2, True)]  # fmt: skip
    for how, last, count, with_cp in cases:
        form = torch.channels_last if last else torch.contiguous_format
        x = image[:count].to(ARGS.device, memory_format=form)
        case = dict(precision=how, channels_last=last, batch=count, with_cp=with_cp)
        with guarded(**case):
            nets = (network(name, with_cp=with_cp) for name in (UNFUSED, LEAN))
            found = (results(net.to(memory_format=form), x, how) for net in nets)
            plain, lean = (distance(values, expected[count]) for values in found)
            report(lean <= 1.5 * plain + 1e-5, **case, lean=lean, plain=plain)


def results(net: Any, x: Tensor, how: str) -> list[Tensor]:
    """Return features, and all gradients in one tensor, of a training step."""
    features = step(net, x, how)
    grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return [*features, torch.cat(grads) / SCALES.get(how, 1)]


def step(net: Any, x: Tensor, how: str) -> list[Tensor]:
    """Run forward and backward, and return the features."""
    net.zero_grad(set_to_none=True)
    with precision(how, x.device.type):
        features = net(x)
    losses = [level.to(x.dtype).square().mean() for level in features]
    (SCALES.get(how, 1) * sum(losses)).backward()
    return [level.detach() for level in features]


@torch.no_grad()
def fast() -> None:
    """Time the inference of test --fast beside the official layer."""
    x = torch.randn(sized(1, 3, 800, 1216), device=ARGS.device)
    quick, official = make_fast(_Features(network(LEAN))), network(OFFICIAL)
    official.eval()
    report(fast=cost_of(lambda: quick(x)), official=cost_of(lambda: official(x)))


def backbone() -> None:
    """Time the training step and the inference of every backbone of the tables."""
    counts = (2,) if ARGS.small else (2, 8)
    for how, count, name in product(PRECISIONS, counts, NETWORKS):
        time_backbone(name, how, count)


def compiled() -> None:
    """Compare compiled backbones with eager ones, and time them."""
    for how, name in product(PRECISIONS[::2], COMPILED):
        time_backbone(name, how, 2)


def time_backbone(name: str, how: str, count: int) -> None:
    """Report a backbone's training step, and its inference of one image."""
    with guarded(net=name, precision=how, batch=count) as what:
        net = network(name)
        x = torch.randn(sized(count, 3, 800, 1344), device=ARGS.device)
        if name in COMPILED:  # a copy is not
            expected = results(copy.deepcopy(net), x, how)
            error = distance(results(net, x, how), expected)
            report(error <= (0.1 if how == 'bfloat16' else 1e-3), **what, error=error)
        report(**what, mode='train', **cost_of(lambda: step(net, x, how)))
        net.eval()
        with torch.no_grad(), precision(how):
            report(**what, mode='inference', **cost_of(lambda: net(x[:1])))


def detectors() -> None:
    """Time the steps of whole detectors, and count what waits for the device."""

    def run() -> None:
        with precision(how):
            losses = model(**batch, mode='loss')
        model.parse_losses(losses)[0].backward()
        model.zero_grad()

    names = (PLAIN, OFFICIAL, LEAN)
    for config, how, name in product(CONFIGS, PRECISIONS[:2], names):
        with guarded(config=config, network=name, precision=how) as what:
            model = detector(name, 16 if ARGS.small else 64, config).to(ARGS.device)
            raw = objects(*sized(2, 3, 800, 1344)[2:])
            batch = model.data_preprocessor(raw, training=True)
            report(**what, **cost_of(run), **synchronizations(run))


def synchronizations(run: Callable[[], None]) -> dict[str, Any]:
    """Return how often a run waits for the GPU, and where most."""
    if ARGS.device != 'cuda':
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        run()
        torch.cuda.set_sync_debug_mode('default')
    found = [w for w in caught if 'synchroniz' in str(w.message)]
    places = Counter(f'{Path(w.filename).name}:{w.lineno}' for w in found)
    return dict(syncs=len(found), sync_at=places.most_common(8))


def commands() -> None:
    """Train, test and predict by the command line."""
    with tempfile.TemporaryDirectory() as folder:
        for split in ('train', 'val'):
            write_split(Path(folder), split, 40, 280)
        config = Path(folder) / 'config.py'
        text = config_text(CONFIGS[0], Path(folder), 2, '')
        config.write_text(text.replace('max_iters=1', 'max_iters=8'))
        cli = [sys.executable, '-m', 'eca_mmdet.cli']
        job = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=1']
        train = [*cli, 'train', str(config)]
        cases = (
            [[*cli, 'demo', '--quick', '--out', f'{folder}/demo'], 0],
            [train, 0], [[*train, '--amp'], 0], [[*train, '--deterministic'], 0],
            [[*job, *train[1:], '--launcher', 'pytorch'], 0],
            [[*train, '--cfg-options', 'optim_wrapper.optimizer.lr=1e30'], 1],
        )  # fmt: skip
        for words, expected in cases[: 1 if ARGS.small else None]:
            done = subprocess.run(words, capture_output=True, text=True, cwd=folder)
            same = done.returncode == expected
            tail = '' if same else (done.stdout + done.stderr)[-800:]
            report(same, command=words[2:], exit=done.returncode, tail=tail)


def report(ok: bool = True, **values: Any) -> None:
    """Print one result."""
    print(json.dumps({'check': ARGS.child, 'ok': bool(ok), **values}), flush=True)
    FAILED.extend([] if ok else [values])


@contextlib.contextmanager
def guarded(**what: Any) -> Iterator[dict[str, Any]]:
    """Report an error in the block, and go on after it."""
    try:
        yield what
    except Exception as error:
        report(False, **what, error=f'{type(error).__name__}: {error}'[:500])


@contextlib.contextmanager
def precision(name: str, device: str | None = None) -> Iterator[None]:
    """Run in float32, TF32, or under autocast."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = name == 'tf32'
    half = name.endswith('16')
    dtype = getattr(torch, name) if half else torch.bfloat16
    with torch.autocast(device or ARGS.device, dtype, enabled=half):
        yield


def sized(*shape: int) -> list[int]:
    """Return an image's shape; with --small a tenth as high and wide."""
    return [*shape[:2], *(side // (10 if ARGS.small else 1) for side in shape[2:])]


def network(name: str, device: str | None = None, **settings: Any) -> Any:
    """Return a backbone with norms and gates that matter, for training."""
    made = build(name, 50, 16 if ARGS.small else 64, **COCO, **settings)
    draw = torch.Generator().manual_seed(1)
    for parameter in (p for p in made.parameters() if p.dim() == 1):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    made.train()
    return made.to(device or ARGS.device)


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest relative distance of a tensor from what it should be."""
    pairs = zip(found, expected, strict=True)
    exact = [(a.cpu().double(), b.cpu().double()) for a, b in pairs]
    shares = [(a - b).norm() / b.norm().clamp(min=1e-12) for a, b in exact]
    return float(torch.stack(shares).max())  # not a number if one is not


def cost_of(run: Callable[[], Any]) -> dict[str, Any]:
    """Return the median time of a run, the host's time to queue it, and its memory."""
    cuda = ARGS.device == 'cuda'
    wait = torch.cuda.synchronize if cuda else lambda: None
    times = []
    for _ in range(2 if ARGS.small else 12):
        wait()
        start = time.perf_counter()
        run()
        queued = time.perf_counter() - start
        wait()
        times.append((time.perf_counter() - start, queued))
    columns = zip(*times[len(times) // 4 :], strict=True)
    ms, host_ms = (round(1e3 * statistics.median(column), 3) for column in columns)
    if not cuda:
        return dict(ms=ms, host_ms=host_ms)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    peak = round((torch.cuda.max_memory_allocated() - before) / MIB, 1)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profile:
        run()
        wait()
    kernels = sum(event.device_type.name == 'CUDA' for event in profile.events())
    return dict(ms=ms, host_ms=host_ms, peak_mib=peak, kernels=kernels)


CHECKS = {
    versions: 25, operators: 40, equality: 70, fast: 30, backbone: 110, detectors: 70,
    commands: 150, compiled: 200,
}  # fmt: skip
"""Each check and its seconds, in the order of their worth; the last takes the rest."""


def main(argv: list[str] | None = None) -> int:
    """Run the checks asked for; 1 if one failed or was not run."""
    known = {check.__name__: check for check in CHECKS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checks', nargs='*', default=list(known), metavar='CHECK',
                        help=f'{", ".join(known)} (default: all)')  # fmt: skip
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--small', action='store_true', help='tiny, to try the script')
    parser.add_argument('--budget', type=float, default=470, help='seconds for all')
    parser.add_argument('--child', choices=known, help=argparse.SUPPRESS)
    parser.parse_args(argv, ARGS)
    if unknown := set(ARGS.checks) - set(known):
        parser.error(f'unknown checks: {", ".join(sorted(unknown))}')
    if ARGS.child:
        registration.register()
        register_layers()
        known[ARGS.child]()
        return int(bool(FAILED))
    end = time.monotonic() + ARGS.budget
    return max([run_check(name, CHECKS[known[name]], end) for name in ARGS.checks])


def run_check(name: str, limit: float, end: float) -> int:
    """Run a check in a process of its own, and print how that ended."""
    start, slower = time.monotonic(), 1 if ARGS.device == 'cuda' else 9
    limit = max(1, min(slower * limit, end - start))
    command = ['timeout', '--kill-after=2', f'{limit:.0f}', sys.executable, __file__]
    command += ['--child', name, '--device', ARGS.device, *['--small'] * ARGS.small]
    environment = os.environ | ({} if slower == 1 else {'CUDA_VISIBLE_DEVICES': ''})
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
    ends = {0: 'passed', 1: 'failed', 124: f'stopped after {limit:.0f} s'}
    result = ends.get(done.returncode, f'ended with {done.returncode}')
    line = {'check': name, 'result': result, 'seconds': time.monotonic() - start}
    line |= {'stderr': done.stderr[-1500:]} if done.returncode else {}
    print(json.dumps(line), flush=True)
    return int(done.returncode != 0)


if __name__ == '__main__':
    raise SystemExit(main())

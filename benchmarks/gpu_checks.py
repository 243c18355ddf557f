"""Checks and timings of what only a GPU runs; benchmarks/gpu.sh runs all of them.

    python benchmarks/gpu_checks.py [CHECK ...] [--device cpu --small]

Each check has a process and a time limit of its own. It prints a JSON line for each
result, with ``ok: false`` where the device gives other values than the CPU or a command
fails, and one for itself at its end.
"""

from __future__ import annotations

import argparse
import contextlib
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
from pathlib import Path
from typing import Any

import torch
from benchmark_backbone import COCO, MIB, _Features, detector, objects
from formulations import NETWORKS, OFFICIAL, PLAIN, build, register_layers
from torch import Tensor

from eca_mmdet import registration

LEAN, UNFUSED = 'ECA, lean', 'ECA, plain'
MASK_RCNN = 'mask-rcnn_eca-r50_fpn_4xb2-1x_coco'
RETINANET = 'retinanet_eca-r50_fpn_4xb2-1x_coco'
PRECISIONS = ('bfloat16', 'tf32', 'float32', 'float16')
SCALE = 1024.0  # of the loss in float16, as a gradient scaler has it
ARGS = argparse.Namespace()
FAILED: list[Any] = []


def versions() -> None:
    """Report the machine."""
    import mmcv
    import mmdet
    import torchvision

    modules = {
        one.__name__: one.__version__ for one in (torch, torchvision, mmcv, mmdet)
    }
    report(**modules, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    if ARGS.device == 'cuda':
        memory = torch.cuda.mem_get_info()[1] // MIB
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        report(device=torch.cuda.get_device_name(), memory_mib=memory, bfloat16=native,
               capability=torch.cuda.get_device_capability())  # fmt: skip


def operators() -> None:
    """Compare mmcv's operators, as supplied here, with the CPU in float64."""
    from mmcv import ops

    draw = torch.Generator().manual_seed(0)
    x, logits = (torch.randn(s, generator=draw) for s in ((2, 8, 24, 32), (200, 5)))
    offset, weight = (
        torch.randn(s, generator=draw) for s in ((2, 18, 24, 32), (4, 8, 3, 3))
    )
    mask, scores = (torch.rand(s, generator=draw) for s in ((2, 9, 24, 32), 40))
    corners = (torch.rand(40, 4, generator=draw) * 60).round() / 2  # exact in bfloat16
    corners[:, 2:] += corners[:, :2]
    rois = torch.cat([(torch.arange(40) % 2)[:, None], corners], 1)
    labels = torch.arange(200) % 6
    known: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        'roi_align': (
            lambda x: ops.roi_align(x, rois.to(x), (7, 7), 0.5, 0, 'avg', True), [x]
        ),
        'deform_conv2d': (
            lambda *x: ops.deform_conv2d(*x, 1, 1), [x, offset, weight]
        ),
        'modulated_deform_conv2d': (
            lambda *x: ops.modulated_deform_conv2d(*x, None, 1, 1),
            [x, offset, mask, weight],
        ),
        'sigmoid_focal_loss': (
            lambda x: ops.sigmoid_focal_loss(x, labels.to(x.device), 2.0, 0.25, None,
                                             'none'), [logits]
        ),
        'nms': (lambda x: ops.nms(x.detach(), scores.to(x), 0.5)[0], [corners]),
    }  # fmt: skip
    limits = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
    for name, (function, inputs) in known.items():
        for dtype, limit in list(limits.items())[: 1 if name == 'nms' else 3]:
            with guarded(operator=name, dtype=str(dtype)) as what:
                exact = [part.to(dtype) for part in inputs]
                expected = gradients(function, exact, 'cpu', torch.float64)
                error = distance(gradients(function, exact, ARGS.device), expected)
                report(error <= limit, **what, error=error)
    with guarded(operator='roi_align', deterministic=True) as what:
        expected = gradients(known['roi_align'][0], [x], 'cpu', torch.float64)
        torch.use_deterministic_algorithms(True)
        found = gradients(known['roi_align'][0], [x], ARGS.device)
        report((error := distance(found, expected)) <= 1e-4, **what, error=error)


def gradients(
    function: Any, inputs: list[Tensor], device: str, dtype: Any = None
) -> list[Tensor]:
    """Return a function's result and the gradients of its inputs."""
    leaves = [x.detach().to(device, dtype).requires_grad_() for x in inputs]
    result = function(*leaves)
    if result.requires_grad:
        weights = torch.linspace(0.5, 1, result.numel()).view(result.shape)
        result.backward(weights.to(result))
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def equality() -> None:
    """Compare lean and plain ECA-ResNets with plain in float64 on the CPU."""
    image = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    exact = network(UNFUSED, device='cpu').double()
    expected = {n: step_of(exact, image[:n].double(), 'float32') for n in (1, 2, 3)}
    cases = [(how, last, 2, False) for how in PRECISIONS for last in (False, True)]
    cases += [(how, False, n, False) for how in PRECISIONS[::2] for n in (1, 3)]
    for how, last, count, with_cp in [*cases, ('bfloat16', False, 2, True)]:
        form = torch.channels_last if last else torch.contiguous_format
        x = image[:count].to(ARGS.device, memory_format=form)
        case = dict(precision=how, channels_last=last, batch=count, with_cp=with_cp)
        with guarded(**case):
            plain, lean = (
                distance(step_of(net, x, how), expected[count])
                for name in (UNFUSED, LEAN)
                for net in [network(name, with_cp=with_cp).to(memory_format=form)]
            )
            report(lean <= 1.5 * plain + 1e-5, **case, lean=lean, plain=plain)


def step_of(net: Any, x: Tensor, how: str) -> list[Tensor]:
    """Return features, and all gradients in one tensor, of a training step."""
    net.zero_grad(set_to_none=True)
    scale = SCALE if how == 'float16' else 1.0
    with precision(how, x.device.type):
        features = net(x)
    (scale * sum(level.double().square().mean() for level in features)).backward()
    grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return [*(level.detach() for level in features), torch.cat(grads) / scale]


def fast() -> None:
    """Time the inference of test --fast beside the official layer."""
    from eca_mmdet.inference.fast import make_fast

    x = torch.randn(sized(1, 3, 800, 1216), device=ARGS.device)
    official = network(OFFICIAL)
    official.eval()
    with guarded(), torch.no_grad():
        quick = make_fast(_Features(network(LEAN)))
        report(fast=cost_of(lambda: quick(x)), official=cost_of(lambda: official(x)))


def backbone() -> None:
    """Time the training step and the inference of every backbone of the tables."""
    for how in PRECISIONS:
        for count in (2,) if ARGS.small else (2, 8):
            for name in NETWORKS:
                time_backbone(name, how, count)


def compiled() -> None:
    """Compare compiled backbones with eager ones, and time them."""
    for how in PRECISIONS[::2]:
        for name in (PLAIN, LEAN, OFFICIAL):
            time_backbone(name, how, 2, compiled=True)


def time_backbone(name: str, how: str, count: int, compiled: bool = False) -> None:
    """Report a backbone's training step, and its inference of one image."""
    net = network(name)
    x = torch.randn(sized(count, 3, 800, 1344), device=ARGS.device)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        with precision(how):
            features = net(x)
        sum(level.float().mean() for level in features).backward()

    with guarded(net=name, precision=how, batch=count, compiled=compiled) as what:
        if compiled:
            eager, start = step_of(net, x, how), time.perf_counter()
            net.compile(dynamic=False)
            error = distance(step_of(net, x, how), eager)
            seconds = round(time.perf_counter() - start, 1)
            limit = 0.1 if how == 'bfloat16' else 1e-3
            report(error <= limit, **what, error=error, compile_s=seconds)
        report(**what, mode='train', **cost_of(train))
        net.eval()
        with torch.no_grad(), precision(how):
            report(**what, mode='inference', **cost_of(lambda: net(x[:1])))


def detectors() -> None:
    """Time the steps of whole detectors, and count what waits for the device."""
    for config in (MASK_RCNN, RETINANET):
        for how in PRECISIONS[:2]:
            for name in (PLAIN, OFFICIAL, LEAN):
                with guarded(config=config, network=name, precision=how) as what:
                    report(**what, **detector_cost(config, name, how))


def detector_cost(config: str, name: str, how: str) -> dict[str, Any]:
    """Return what a detector's step with SGD costs."""
    model = detector(name, 16 if ARGS.small else 64, config).to(ARGS.device)
    raw = objects(*sized(2, 3, 800, 1344)[2:])
    batch = model.data_preprocessor(raw, training=True)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)

    def step() -> None:
        with precision(how):
            losses = model(**batch, mode='loss')
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    cost = cost_of(step)
    if ARGS.device == 'cuda':
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            step()
            torch.cuda.set_sync_debug_mode('default')
        syncs = [w for w in caught if 'synchroniz' in str(w.message)]
        places = Counter(f'{Path(w.filename).name}:{w.lineno}' for w in syncs)
        cost |= dict(syncs=len(syncs), sync_at=places.most_common(8))
    return cost


def commands() -> None:
    """Train, test and predict by the command line."""
    from startup import config_text, write_split

    with tempfile.TemporaryDirectory() as folder:
        data, config = Path(folder) / 'data', Path(folder) / 'train.py'
        for split in ('train', 'val'):
            write_split(data, split, 40, 280)
        text = config_text(MASK_RCNN, data, 2, '')
        config.write_text(text.replace('max_iters=1', 'max_iters=8'))
        cli = [sys.executable, '-m', 'eca_mmdet.cli']
        job = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=1']
        train = [*cli, 'train', str(config), '--work-dir']
        nan = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e30']
        runs = [
            ([*train, f'{folder}/a'], 0),
            ([*train, f'{folder}/b', '--amp'], 0),
            ([*train, f'{folder}/c', '--deterministic', '--seed', '1'], 0),
            ([*job, *train[1:], f'{folder}/d', '--launcher', 'pytorch'], 0),
            ([*train, f'{folder}/e', *nan], 1),
            ([*cli, 'demo', '--quick', '--out', f'{folder}/demo'], 0),
        ]
        for words, expected in runs[-1:] if ARGS.small else runs:
            start = time.perf_counter()
            done = subprocess.run(words, capture_output=True, text=True)
            same = done.returncode == expected
            report(same, command=words[2:], exit=done.returncode,
                   seconds=round(time.perf_counter() - start, 1),
                   tail='' if same else (done.stdout + done.stderr)[-800:])  # fmt: skip


def memory() -> None:
    """Run out of the device's memory, and see that it is recognised."""
    from eca_mmdet.engine.failures import is_out_of_gpu_memory

    if ARGS.device == 'cuda':
        share = 1.5 * 2**30 / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(share)
        x = torch.randn(8, 3, 800, 1344, device='cuda')
        try:
            step_of(network(LEAN), x, 'float32')
            report(False, error='nothing was refused')
        except RuntimeError as error:
            report(is_out_of_gpu_memory(error), error=str(error)[:200])


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
    pairs = [(a.cpu().double(), b.cpu().double())
             for a, b in zip(found, expected, strict=True)]  # fmt: skip
    if any(a.shape != b.shape for a, b in pairs):
        return float('inf')
    return max(float((a - b).norm() / b.norm().clamp(min=1e-12)) for a, b in pairs)


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
        times.append((1e3 * (time.perf_counter() - start), 1e3 * queued))
    ms, host_ms = map(statistics.median, zip(*times[len(times) // 4 :], strict=True))
    cost: dict[str, Any] = dict(ms=round(ms, 3), host_ms=round(host_ms, 3))
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peak = torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CUDA]
        ) as profile:
            run()
            wait()
        kernels = sum(e.device_type.name == 'CUDA' for e in profile.events())
        cost |= dict(peak_mib=round(peak / MIB, 1), kernels=kernels)
    return cost


CHECKS = {
    versions: 25, operators: 40, equality: 70, fast: 30, backbone: 110,
    detectors: 70, commands: 150, memory: 25, compiled: 200,
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
    start = time.monotonic()
    limit = max(1, min(limit * (1 if ARGS.device == 'cuda' else 9), end - start))
    words = ['--child', name, '--device', ARGS.device, *['--small'] * ARGS.small]
    environment = os.environ | ({} if ARGS.device == 'cuda' else NO_GPU)
    command = ['timeout', '--kill-after=2', f'{limit:.0f}', sys.executable, __file__]
    done = subprocess.run(
        [*command, *words], stderr=subprocess.PIPE, text=True, env=environment
    )
    ends = {0: 'passed', 1: 'failed', 124: f'stopped after {limit:.0f} s'}
    result = ends.get(done.returncode, f'ended with {done.returncode}')
    seconds = round(time.monotonic() - start, 1)
    line = {'check': name, 'result': result, 'seconds': seconds}
    line |= {'stderr': done.stderr[-1500:]} if done.returncode else {}
    print(json.dumps(line), flush=True)
    return int(done.returncode != 0)


NO_GPU = {'CUDA_VISIBLE_DEVICES': ''}

if __name__ == '__main__':
    raise SystemExit(main())

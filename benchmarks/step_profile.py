"""A training step of a detector by part: CPU time, bytes moved and bytes kept.

    python benchmarks/step_profile.py [CONFIG ...] [--scale 1] [--rounds 3]

Two generated images of 640 x 480 pixels with as many objects as COCO has go through the
config's own pipeline, model, losses and optimizer. Backward counts for the part whose
forward made the node of the graph. Times are process times (all threads) without
counting; operators and bytes come from one more step. "Kept" is what a part's forward
leaves alive, "peak" the most that is alive at once while it runs; both without
parameters. Weights are random, so proposals near the objects replace a part of the
RPN's, as a trained one gives them (``--positives``).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import Counter as Sums
from collections.abc import Iterator
from datetime import date
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from benchmark_backbone import MIB, cpu_name
from counting import Counter, Tally
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from startup import write_split
from torch import Tensor
from torch.utils._pytree import tree_leaves

from eca_mmdet import registration
from eca_mmdet.catalog.configs import resolve_config

CONFIGS = ('mask-rcnn_eca-r50_fpn_4xb2-1x_coco', 'retinanet_eca-r50_fpn_4xb2-1x_coco')
BATCH, OBJECTS = 2, 7

METHODS = {
    'data_preprocessor.forward': 'data', 'backbone.forward': 'backbone',
    'neck.forward': 'neck', 'rpn_head.forward': 'RPN',
    'rpn_head.loss_by_feat': 'RPN losses', 'rpn_head.get_targets': 'RPN targets',
    'rpn_head.predict_by_feat': 'RPN proposals', 'roi_head.loss': 'RoI heads, rest',
    'roi_head.bbox_assigner.assign': 'RoI targets',
    'roi_head.bbox_sampler.sample': 'RoI targets',
    'roi_head.bbox_roi_extractor.forward': 'RoIAlign',
    'roi_head.bbox_head.forward': 'box head',
    'roi_head.bbox_head.loss_and_target': 'RoI losses',
    'roi_head.bbox_head.get_targets': 'RoI targets',
    'roi_head.mask_roi_extractor.forward': 'RoIAlign',
    'roi_head.mask_head.forward': 'mask head',
    'roi_head.mask_head.loss_and_target': 'RoI losses',
    'roi_head.mask_head.get_targets': 'mask targets',
    'bbox_head.forward': 'dense head', 'bbox_head.loss_by_feat': 'losses',
    'bbox_head.get_targets': 'targets',
}  # fmt: skip
"""What belongs to which part; detectors have some of these."""


class Parts:
    """Follows which part runs, in forward by its methods, in backward by its nodes."""

    def __init__(self, counter: Counter | None = None) -> None:
        self.seconds: Sums[str] = Sums()
        self.kept: Sums[str] = Sums()
        self.counter = counter
        self._part, self._time, self._live = 'rest', time.process_time(), 0
        self._seen: set[Any] = set()  # nodes of the graph

    def switch(self, part: str, forward: bool = True) -> str:
        """Book what passed for the part before, which is returned; start ``part``."""
        before, self._part = self._part, part
        now = time.process_time()
        self.seconds[before] += now - self._time
        if self.counter is not None:
            if forward:
                self.kept[before] += self.counter.alive_bytes - self._live
            self._live = self.counter.alive_bytes
            self.counter.part = part
        self._time = time.process_time()
        return before

    @contextlib.contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Run a block as a part."""
        before = self.switch(part)
        yield
        self.switch(before)

    def wrap(self, model: Any, path: str, part: str) -> None:
        """Run a method as a part, and its nodes in backward."""
        owner, _, method = path.rpartition('.')
        try:
            holder = attrgetter(owner)(model)
        except AttributeError:  # a detector without that part
            return
        function = getattr(holder, method)

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.inside(part):
                output = function(*args, **kwargs)
                self.claim(part, output)
            return output

        setattr(holder, method, run)

    def claim(self, part: str, output: Any) -> None:
        """Give the nodes of the output's graph that have no part to ``part``."""

        def enter(grads: Any) -> None:
            self.switch(part, forward=False)

        nodes = [leaf.grad_fn for leaf in tree_leaves(output)
                 if isinstance(leaf, Tensor)]  # fmt: skip
        while nodes:
            node = nodes.pop()
            if node is not None and node not in self._seen:
                self._seen.add(node)
                node.register_prehook(enter)
                nodes += [parent for parent, _ in node.next_functions]


def main(argv: list[str] | None = None) -> int:
    """Print a table for each config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', default=CONFIGS, metavar='CONFIG')
    parser.add_argument('--scale', type=float, default=1, help='of the image sizes')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--positives', type=int, default=64, help='proposals per image')
    args = parser.parse_args(argv)
    registration.register()
    print(f'{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__},'
          f' {date.today()}; no GPU was used')  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        write_split(Path(folder), 'train', 4 * BATCH, 4 * BATCH * OBJECTS)
        for config in args.configs:
            profile(config, Path(folder), args)
    return 0


def profile(config: str, data: Path, args: argparse.Namespace) -> None:
    """Print the parts of one detector's step."""
    cfg = Config.fromfile(str(resolve_config(config)))
    cfg.model.backbone.init_cfg = None
    rounds = [step(cfg, data, args).seconds for _ in range(args.rounds + 1)]
    counter = Counter()
    kept = step(cfg, data, args, counter).kept
    tallies = counter.parts.values()
    counter.parts['all'] = Tally(
        *map(sum, zip(*((one.operators, one.moved) for one in tallies), strict=True)),
        counter.peak_bytes,
    )
    kept['all'] = sum(kept.values())
    seconds = {part: statistics.median(one[part] for one in rounds[1:])
               for part in rounds[0]}  # fmt: skip
    seconds['all'] = sum(seconds.values())
    print(f'\n{config}: medians of {args.rounds} steps')
    print(f'{"":18}{"time, s":>9}{"share":>7}{"operators":>11}{"moved, GB":>11}'
          f'{"kept, MiB":>11}{"peak, MiB":>11}')  # fmt: skip
    for part, time_s in seconds.items():
        tally = counter.parts[part]
        print(f'{part:18}{time_s:9.3f}{time_s / seconds["all"]:7.1%}'
              f'{tally.operators:11,}{tally.moved / 1e9:11.2f}'
              f'{kept[part] / MIB:11.1f}{tally.highest / MIB:11.1f}')  # fmt: skip


def step(
    cfg: Any, data: Path, args: argparse.Namespace, counter: Counter | None = None
) -> Parts:
    """Run one training step of a new model, and return its parts."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    dataset = DATASETS.build(dataset_config(cfg, data, args.scale))
    dataset.prepare_data(0)  # warm up
    if getattr(model, 'with_roi_head', False):
        near_objects(model.roi_head, args.positives)
    with counter or contextlib.nullcontext():
        parts = Parts(counter)
        for path, part in METHODS.items():
            parts.wrap(model, path, part)
        with parts.inside('data'):
            batch = pseudo_collate([dataset.prepare_data(at) for at in range(BATCH)])
        batch = model.data_preprocessor(batch, training=True)
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        parts.claim('rest', loss)
        parts.switch('rest')
        loss.backward()
        parts.switch('optimizer', forward=False)
        optimizer.step()
        optimizer.zero_grad()
        parts.switch('rest')
    return parts


def dataset_config(cfg: Any, data: Path, scale: float) -> Any:
    """Return the config's training dataset, over generated data."""
    dataset = cfg.train_dataloader.dataset.copy()
    dataset.update(data_root=str(data), ann_file='annotations/instances_train.json',
                   data_prefix=dict(img='train/'))  # fmt: skip
    for transform in dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = tuple(round(side * scale) for side in (1333, 800))
    return dataset


def near_objects(roi_head: Any, count: int) -> None:
    """Replace the first proposals of each image by boxes near its objects."""
    function = roi_head.loss

    def run(x: Any, proposals: Any, samples: Any) -> Any:
        for found, sample in zip(proposals, samples, strict=True):
            boxes = sample.gt_instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes)
            picked = boxes[torch.arange(count) % len(boxes)]
            sides = (picked[:, 2:] - picked[:, :2]).repeat(1, 2)
            moved = picked + 0.1 * sides * torch.rand_like(picked)
            found.bboxes[:count] = moved[: len(found.bboxes)]
        return function(x, proposals, samples)

    roi_head.loss = run


if __name__ == '__main__':
    raise SystemExit(main())

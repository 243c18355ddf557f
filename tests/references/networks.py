"""The authors' networks in plain PyTorch, written from the paper's description.

Independent of the package: state dicts of these have the authors' names, and their
features are what the package's backbones must give.
"""

import torch
from torch import nn
from torch.nn import functional

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}


class Gate(nn.Module):
    """Mean over space, 1-D convolution over channels, sigmoid, scale."""

    def __init__(self, kernel_size):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x):
        n, c = x.shape[:2]
        u = self.conv(functional.adaptive_avg_pool2d(x, 1).reshape(n, 1, c))
        return x * torch.sigmoid(u).reshape(n, c, 1, 1)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, kernel_size, bottleneck):
        super().__init__()
        outputs = width * 4 if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [
                (inputs, width, 1, 1),
                (width, width, 3, stride),
                (width, outputs, 1, 1),
            ]
        self.count = len(shapes)
        for i, (c, d, k, s) in enumerate(shapes, 1):
            self.add_module(f'conv{i}', nn.Conv2d(c, d, k, s, k // 2, bias=False))
            self.add_module(f'bn{i}', nn.BatchNorm2d(d))
        self.eca = Gate(kernel_size)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
            if i < self.count:
                y = functional.relu(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.eca(y) + shortcut)


class AuthorsResNet(nn.Module):
    """ECA-ResNet with its classifier."""

    def __init__(self, depth, kernel_sizes, width=8, classes=1000):
        super().__init__()
        bottleneck = depth >= 50
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, (blocks, k) in enumerate(
            zip(BLOCKS[depth], kernel_sizes, strict=True)
        ):
            layers = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                w = width * 2**stage
                layers.append(Block(channels, w, stride, k, bottleneck))
                channels = w * 4 if bottleneck else w
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def features(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in range(1, 5):
            x = getattr(self, f'layer{stage}')(x)
            maps.append(x)
        return maps


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion, kernel_size):
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [conv_norm_relu6(inputs, hidden, 1, 1, 1)]
        layers += [
            conv_norm_relu6(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            Gate(kernel_size),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


def conv_norm_relu6(inputs, outputs, kernel, stride, groups):
    return nn.Sequential(
        nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class AuthorsMobileNetV2(nn.Module):
    """ECA-MobileNetV2 with its classifier; k = 1 under 96 channels, else 3."""

    def __init__(self, classes=1000):
        super().__init__()
        layers, channels = [conv_norm_relu6(3, 32, 3, 2, 1)], 32
        # expansion, channels, blocks, stride
        for t, c, n, s in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for i in range(n):
                kernel_size = 1 if c < 96 else 3
                layers.append(
                    InvertedResidual(channels, c, 1 if i else s, t, kernel_size)
                )
                channels = c
        layers.append(conv_norm_relu6(320, 1280, 1, 1, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, classes))

    def maps(self, x, after=(3, 6, 13, 18)):
        """Return the maps after the given numbers of 'features'."""
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in after:
                found.append(x)
        return found


def randomise(model, seed=1):
    """Give every tensor values that would show a mistake, norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.dtype.is_floating_point:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith('running_var'):
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.dim() == 4:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(noise)
    model.eval()  # mmdet's returns None
    return model


def save_as_the_authors(model, file, arch='se_resnet50'):
    """A training checkpoint: wrapped, 'module.', a wrong arch, optimizer state."""
    torch.save(
        {
            'epoch': 100,
            'arch': arch,
            'state_dict': {f'module.{k}': v for k, v in model.state_dict().items()},
            'best_prec1': torch.tensor(70.9),
            'optimizer': {
                'state': {0: {'momentum_buffer': torch.zeros(3)}},
                'param_groups': [{'lr': 0.1, 'params': [0]}],
            },
        },
        file,
        _use_new_zipfile_serialization=False,
    )
    return file


def detector_state(backbone, version, masks=False, cascade=False, classes=80):
    """A two-stage detector's names and shapes, with narrow heads."""
    root = '' if version == 1 else 'roi_head.'
    shapes = {'neck.lateral_convs.0.conv.weight': (16, 32, 1, 1)}
    shapes['rpn_head.rpn_cls.weight'] = (3, 16, 1, 1)
    shapes['rpn_head.rpn_reg.weight'] = (12, 16, 1, 1)
    rows = 4 if cascade else 4 * (classes + (version == 1))
    for stage in ('.0', '.1', '.2') if cascade else ('',):
        head = f'{root}bbox_head{stage}'
        shapes[f'{head}.fc_cls.weight'] = (classes + 1, 16)
        shapes[f'{head}.fc_reg.weight'] = (rows, 16)
    if masks:
        channels = classes + (version == 1)
        shapes[f'{root}mask_head.conv_logits.weight'] = (channels, 16, 1, 1)
    return _with_backbone(backbone, shapes)


def retinanet_state(backbone, classes=80, old_towers=False):
    """RetinaNet's names and shapes; ``old_towers`` are v0.6.0's."""
    tower = 'weight' if old_towers else 'conv.weight'
    return _with_backbone(
        backbone,
        {
            'neck.lateral_convs.0.conv.weight': (16, 32, 1, 1),
            f'bbox_head.cls_convs.0.{tower}': (16, 16, 3, 3),
            'bbox_head.retina_cls.weight': (9 * classes, 16, 3, 3),
            'bbox_head.retina_reg.weight': (36, 16, 3, 3),
        },
    )


def _with_backbone(backbone, shapes):
    state = {
        f'backbone.{key}': value
        for key, value in backbone.state_dict().items()
        if not key.startswith('fc.')
    }
    return state | {key: torch.randn(shape) for key, shape in shapes.items()}

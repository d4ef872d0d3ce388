"""ResNet-50 and ResNeXt-50 (32x4d) in plain torch, with the layout and names torchvision uses.

Sources: He et al., arXiv:1512.03385, table 1 (with the stride on the 3x3, as everyone exports it);
Xie et al., arXiv:1611.05431, table 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """Blocks per stage, channels of the stem, the 3x3's groups and its channels per group at stage 1."""

    blocks: tuple[int, ...]
    stem: int
    groups: int
    width: int
    expansion: int
    classes: int


RESNET50 = Shape((3, 4, 6, 3), stem=64, groups=1, width=64, expansion=4, classes=1000)
RESNEXT50 = Shape((3, 4, 6, 3), stem=64, groups=32, width=4, expansion=4, classes=1000)
TINY_RESNET = Shape((2, 2), stem=8, groups=1, width=8, expansion=4, classes=10)
TINY_RESNEXT = Shape((2, 2), stem=8, groups=4, width=2, expansion=4, classes=10)


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped), 1x1, and the shortcut, projected where the shape changes."""

    def __init__(self, channels: int, width: int, out: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        total: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return total


class ResNet(nn.Module):
    """Image [B, 3, H, W] -> logits [B, classes]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, shape.stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = shape.stem, []
        for stage, count in enumerate(shape.blocks):
            width = shape.width * shape.groups * 2**stage
            out = shape.stem * shape.expansion * 2**stage
            blocks = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(channels, width, out, shape.groups, stride))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, shape.classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.avgpool(self.layers(x))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits

"""Small networks whose time goes into launches, not arithmetic: what merging pays most for."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: tuple[int, ...]) -> nn.Module:
    """[B, sizes[0]] -> [B, sizes[-1]]: linear layers with ReLU between, a LayerNorm before the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    layers += [nn.LayerNorm(sizes[-2]), nn.Linear(sizes[-2], sizes[-1])]
    return nn.Sequential(*layers)


class Keyword(nn.Module):
    """Frames [B, 1, 49, 10] -> scores [B, 12]: the depthwise-separable keyword spotter (DS-CNN) of
    Zhang et al., arXiv:1711.07128, which MLPerf Tiny uses."""

    def __init__(self, channels: int, blocks: int = 4, classes: int = 12) -> None:
        super().__init__()
        stem = nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1), bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(blocks):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.softmax(self.head(self.features(frames).mean((2, 3))), dim=-1)


class Recurrent(nn.Module):
    """x [B, S, F] -> y [B, 10] from the last step, and the final hidden state [layers, B, H]."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps, (state, _) = self.lstm(x)
        return self.head(steps[:, -1]), state

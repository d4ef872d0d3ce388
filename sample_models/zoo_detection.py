"""Detection: boxes and scores from an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sample_models.zoo_build import BOTH, Architecture, config, image, vision
from sample_models.zoo_vision import conv

RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
BOXES = ("logits", "pred_boxes")


class Yolo(nn.Module):
    """A detector without anchors in YOLO's manner: a pyramid of two scales, boxes decoded from the grid."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(self._conv(3, 16, 2), self._conv(16, 32, 2))
        self.deep = self._conv(32, 64, 2)
        self.lateral = nn.Conv2d(64, 32, 1)
        self.merge = self._conv(64, 32, 1)
        self.heads = nn.ModuleList([nn.Conv2d(32, 5 + classes, 1), nn.Conv2d(64, 5 + classes, 1)])
        for stride, side in ((4, 16), (8, 8)):
            cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1)
            self.register_buffer(f"cells{stride}", cells.reshape(-1, 2).float())

    @staticmethod
    def _conv(fan_in: int, fan_out: int, stride: int) -> nn.Module:
        layers = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False), nn.BatchNorm2d(fan_out), nn.SiLU()
        return nn.Sequential(*layers)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(image)
        coarse = self.deep(fine)
        up = nn.functional.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        fine = self.merge(torch.cat([fine, up], 1))
        boxes, scores = [], []
        for head, x, stride in zip(self.heads, (fine, coarse), (4, 8), strict=True):
            y = head(x).flatten(2).transpose(1, 2)
            centre = (y[..., :2].sigmoid() * 2 - 0.5 + self.get_buffer(f"cells{stride}")) * stride
            size = (y[..., 2:4].sigmoid() * 2) ** 2 * stride
            boxes.append(torch.cat([centre - size / 2, centre + size / 2], -1))
            scores.append(y[..., 4:5].sigmoid() * y[..., 5:].sigmoid())
        return torch.cat(boxes, 1), torch.cat(scores, 1)


class SSD(nn.Module):
    """Single-shot detection (Liu et al., arXiv:1512.02325): anchors on three scales, the 20 best kept."""

    def __init__(self, classes: int = 5, anchors: int = 4) -> None:
        super().__init__()
        widths = (32, 48, 64)
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, 32, stride=2))
        self.downs = nn.ModuleList([conv(32, 48, stride=2), conv(48, 64, stride=2)])
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * anchors, 3, padding=1) for width in widths)
        self.scores = nn.ModuleList(nn.Conv2d(width, classes * anchors, 3, padding=1) for width in widths)
        self.register_buffer("anchors", torch.rand(anchors * (64 + 16 + 4), 4) + 0.1)
        self.classes = classes

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.stem(image)]
        for down in self.downs:
            maps.append(down(maps[-1]))
        boxes, scores = [], []
        for x, box, score in zip(maps, self.boxes, self.scores, strict=True):
            boxes.append(box(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            scores.append(score(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, self.classes)))
        offsets, anchors = torch.cat(boxes, 1), self.get_buffer("anchors")
        centre = anchors[:, :2] + offsets[..., :2] * anchors[:, 2:] * 0.1
        size = anchors[:, 2:] * torch.exp(offsets[..., 2:] * 0.2)
        found = torch.cat([centre - size / 2, centre + size / 2], -1)
        chance = torch.softmax(torch.cat(scores, 1), -1)[..., 1:].amax(-1)
        best, which = chance.topk(20, -1)
        return found.gather(1, which[..., None].expand(-1, -1, 4)), best


class Picked(nn.Module):
    """YOLO's boxes above a score, in one list: how many there are, the data say."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Yolo()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.network(image)
        best = scores.amax(-1)
        keep = best > 0.25
        return boxes[keep], best[keep]


def detr() -> nn.Module:
    backbone = config("ResNetConfig", **RESNET, out_features=["stage2"])
    settings = config(
        "DetrConfig",
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        num_queries=10,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )
    return vision("DetrForObjectDetection", settings, *BOXES)


def yolos() -> nn.Module:
    sizes = {"image_size": [32, 32], "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2}
    settings = config(
        "YolosConfig",
        **sizes,
        num_attention_heads=4,
        intermediate_size=64,
        num_detection_tokens=10,
        use_mid_position_embeddings=False,
    )
    return vision("YolosForObjectDetection", settings, *BOXES)


DOMAIN = "detection"

ARCHITECTURES = (
    Architecture("yolo", DOMAIN, Yolo, image(64), ("boxes", "scores"), exporters=BOTH),
    Architecture("ssd", DOMAIN, SSD, image(32), ("boxes", "scores"), exporters=BOTH),
    Architecture("yolo_picked", DOMAIN, Picked, image(64), ("boxes", "scores")),
    Architecture("detr", DOMAIN, detr, image(64), BOXES),
    Architecture("yolos", DOMAIN, yolos, image(), BOXES),
)

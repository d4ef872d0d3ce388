"""Image classification: convolutional networks and transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.zoo_build import BOTH, EAGER, Architecture, config, image, vision


def conv(fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU: the block that most of these are made of."""
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(fan_out),
        nn.ReLU(),
    )


class Head(nn.Sequential):
    """NCHW -> class scores."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def vgg() -> nn.Module:
    """Simonyan and Zisserman, arXiv:1409.1556."""
    layers: list[nn.Module] = []
    width = 3
    for channels in (16, 32, 64):
        layers += [conv(width, channels), conv(channels, channels), nn.MaxPool2d(2)]
        width = channels
    dense = [nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *dense)


class Dense(nn.Module):
    """DenseNet (Huang et al., arXiv:1608.06993): each layer reads all that came before."""

    def __init__(self, channels: int = 16, growth: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.stem = conv(3, channels, stride=2)
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(
                nn.Sequential(
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, 4 * growth, 1, bias=False),
                    nn.BatchNorm2d(4 * growth),
                    nn.ReLU(),
                    nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
                )
            )
            channels += growth
        self.down = nn.Sequential(conv(channels, channels // 2, 1), nn.AvgPool2d(2))
        self.head = Head(channels // 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        scores: Tensor = self.head(self.down(x))
        return scores


class Fire(nn.Module):
    """SqueezeNet's module (Iandola et al., arXiv:1602.07360): squeeze, then two widths side by side."""

    def __init__(self, fan_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(fan_in, squeeze, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.one(x), self.three(x)], 1)


def squeezenet() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    fires = [Fire(16, 8, 16), Fire(32, 8, 16), Fire(32, 12, 24), nn.Conv2d(48, 10, 1), nn.ReLU()]
    return nn.Sequential(*stem, *fires, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Shuffle(nn.Module):
    """ShuffleNet v2's unit (Ma et al., arXiv:1807.11164): half of the channels pass by, then all mix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        depthwise = [nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half)]
        self.branch = nn.Sequential(conv(half, half, 1), *depthwise, conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, other = x.chunk(2, 1)
        x = torch.cat([kept, self.branch(other)], 1)
        batch, channels, height, width = x.shape
        mixed = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return mixed.reshape(batch, channels, height, width)


def shufflenet() -> nn.Module:
    return nn.Sequential(conv(3, 24, stride=2), Shuffle(24), Shuffle(24), conv(24, 48, 1), Head(48))


class Excite(nn.Module):
    """Squeeze and excitation: a gate per channel from the mean of all pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * nn.functional.hardsigmoid(gate)


class Inverted(nn.Module):
    """MobileNet v3's block (Howard et al., arXiv:1905.02244)."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            Excite(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def mobilenet_v3() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 64), nn.Hardswish(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, Inverted(16, 48), Inverted(16, 64), *tail)


def resnet() -> nn.Module:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "num_labels": 10}
    return vision("ResNetForImageClassification", config("ResNetConfig", **sizes), "logits")


def regnet() -> nn.Module:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8}
    return vision("RegNetForImageClassification", config("RegNetConfig", **sizes, num_labels=10), "logits")


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "num_labels": 10}
    return vision("ConvNextForImageClassification", config("ConvNextConfig", **sizes), "logits")


def efficientnet() -> nn.Module:
    sizes = {
        "width_coefficient": 0.25,
        "image_size": 32,
        "hidden_dim": 320,  # a quarter of 1280, as wide as the last layer is
        "kernel_sizes": [3, 5, 3],
        "in_channels": [32, 16, 24],
        "out_channels": [16, 24, 320],
        "depthwise_padding": [],
        "strides": [1, 2, 1],
        "num_block_repeats": [1, 2, 1],
        "expand_ratios": [1, 6, 6],
        "num_labels": 10,
    }
    settings = config("EfficientNetConfig", **sizes)
    return vision("EfficientNetForImageClassification", settings, "logits")


def mobilenet_v2() -> nn.Module:
    sizes = {"image_size": 32, "depth_multiplier": 0.25, "finegrained_output": True, "num_labels": 10}
    return vision("MobileNetV2ForImageClassification", config("MobileNetV2Config", **sizes), "logits")


TRANSFORMER = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 10,
}


def vit() -> nn.Module:
    return vision("ViTForImageClassification", config("ViTConfig", **TRANSFORMER), "logits")


def deit() -> nn.Module:
    settings = config("DeiTConfig", **TRANSFORMER)
    return vision("DeiTForImageClassificationWithTeacher", settings, "logits")


def beit() -> nn.Module:
    settings = config("BeitConfig", **TRANSFORMER, **EAGER, use_relative_position_bias=True)
    return vision("BeitForImageClassification", settings, "logits")


def dinov2() -> nn.Module:
    sizes = {key: value for key, value in TRANSFORMER.items() if key != "intermediate_size"}
    return vision("Dinov2ForImageClassification", config("Dinov2Config", **sizes, mlp_ratio=2), "logits")


def swin() -> nn.Module:
    sizes = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    settings = config("SwinConfig", **sizes, **EAGER, window_size=4, num_labels=10)
    return vision("SwinForImageClassification", settings, "logits")


def mobilevit() -> nn.Module:
    sizes = {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
        "num_attention_heads": 4,
        "num_labels": 10,
    }
    return vision("MobileViTForImageClassification", config("MobileViTConfig", **sizes), "logits")


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., arXiv:2105.01601): linear layers over patches, then over channels."""

    def __init__(self, channels: int = 32, patches: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.tokens = nn.ModuleList(
            nn.Sequential(nn.Linear(patches, 2 * patches), nn.GELU(), nn.Linear(2 * patches, patches))
            for _ in range(2)
        )
        self.channels = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))
            for _ in range(2)
        )
        self.head = nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        for i in range(2):
            x = x + self.tokens[i](self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[i](self.norms[2 * i + 1](x))
        scores: Tensor = self.head(x.mean(1))
        return scores


DOMAIN = "image classification"

ARCHITECTURES = (
    Architecture("resnet", DOMAIN, resnet, image(), exporters=BOTH),
    Architecture("regnet", DOMAIN, regnet, image()),
    Architecture("convnext", DOMAIN, convnext, image(), exporters=BOTH),
    Architecture("efficientnet", DOMAIN, efficientnet, image(), exporters=BOTH),
    Architecture("mobilenet_v2", DOMAIN, mobilenet_v2, image(), exporters=BOTH),
    Architecture("mobilenet_v3", DOMAIN, mobilenet_v3, image(), exporters=BOTH),
    Architecture("vgg", DOMAIN, vgg, image()),
    Architecture("densenet", DOMAIN, Dense, image(), exporters=BOTH),
    Architecture("squeezenet", DOMAIN, squeezenet, image()),
    Architecture("shufflenet", DOMAIN, shufflenet, image(), exporters=BOTH),
    Architecture("vit", DOMAIN, vit, image(), exporters=BOTH),
    Architecture("deit", DOMAIN, deit, image()),
    Architecture("beit", DOMAIN, beit, image()),
    Architecture("dinov2", DOMAIN, dinov2, image()),
    Architecture("swin", DOMAIN, swin, image(), exporters=BOTH),
    Architecture("mobilevit", DOMAIN, mobilevit, image(64)),
    Architecture("mlp_mixer", DOMAIN, Mixer, image()),
)

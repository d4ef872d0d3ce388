"""Images to boxes, masks and images: detection, segmentation, super-resolution, generation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.families import Input
from sample_models.zoo_build import BOTH, Architecture, Pretrained, config, image, vision
from sample_models.zoo_vision import conv


def segformer() -> nn.Module:
    settings = config(
        "SegformerConfig",
        num_encoder_blocks=2,
        depths=[2, 2],
        sr_ratios=[4, 2],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        num_labels=5,
    )
    return vision("SegformerForSemanticSegmentation", settings, "logits")


class Video(nn.Module):
    """Convolutions over space and time (C3D: Tran et al., arXiv:1412.0767)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(16, 5)

    def forward(self, clip: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layers(clip))
        return scores


class UNet(nn.Module):
    """Ronneberger et al., arXiv:1505.04597: down, up, and what was there before joined beside it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.downs = nn.ModuleList([self._twice(3, width), self._twice(width, 2 * width)])
        self.bottom = self._twice(2 * width, 4 * width)
        self.ups = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)]
        )
        self.joins = nn.ModuleList([self._twice(4 * width, 2 * width), self._twice(2 * width, width)])
        self.head = nn.Conv2d(width, 3, 1)

    @staticmethod
    def _twice(fan_in: int, fan_out: int) -> nn.Module:
        return nn.Sequential(conv(fan_in, fan_out), conv(fan_out, fan_out))

    def forward(self, image: Tensor) -> Tensor:
        x, kept = image, []
        for down in self.downs:
            x = down(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join in zip(self.ups, self.joins, strict=True):
            x = join(torch.cat([up(x), kept.pop()], 1))
        scores: Tensor = self.head(x)
        return scores


class DeepLab(nn.Module):
    """Dilated convolutions side by side (Chen et al., arXiv:1706.05587), scores resized to the image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, width, stride=2))
        self.rates = nn.ModuleList(nn.Conv2d(width, 16, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.pooled = nn.Conv2d(width, 16, 1)
        self.head = nn.Sequential(conv(64, 32, 1), nn.Conv2d(32, 5, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        whole = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        y = self.head(torch.cat([*(rate(x) for rate in self.rates), whole], 1))
        return nn.functional.interpolate(y, size=image.shape[2:], mode="bilinear", align_corners=False)


class DCGAN(nn.Module):
    """The generator of Radford et al., arXiv:1511.06434: noise to image by transposed convolutions."""

    def __init__(self, noise: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out, stride in ((noise, 64, 1), (64, 32, 2), (32, 16, 2)):
            padding = int(stride > 1)
            layers += [
                nn.ConvTranspose2d(fan_in, fan_out, 4, stride, padding, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        picture: Tensor = self.layers(noise[:, :, None, None])
        return picture


def espcn() -> nn.Module:
    """Super-resolution by pixel shuffle (Shi et al., arXiv:1609.05158)."""
    head = [nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*head, nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2))


class EDSR(nn.Module):
    """Residual blocks without normalisation, then pixel shuffle (Lim et al., arXiv:1707.02921)."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.leave = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = first = self.enter(image)
        for block in self.blocks:
            x = x + block(x) * 0.1
        picture: Tensor = self.leave(self.up(x + first))
        return picture


def swin2sr() -> nn.Module:
    sizes = {"image_size": 16, "patch_size": 1, "embed_dim": 16, "depths": [2], "num_heads": [2]}
    settings = config("Swin2SRConfig", **sizes, window_size=4, mlp_ratio=2.0, upscale=2)
    return vision("Swin2SRForImageSuperResolution", settings, "reconstruction")


class VAE(nn.Module):
    """A variational autoencoder (Kingma and Welling, arXiv:1312.6114) whose noise is an input."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.1)
        )
        self.mean = nn.Linear(32 * 64, latent)
        self.spread = nn.Linear(32 * 64, latent)
        self.enter = nn.Linear(latent, 32 * 64)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.down(image).flatten(1)
        mean, spread = self.mean(x), self.spread(x)
        z = mean + noise * torch.exp(0.5 * spread)
        return self.up(self.enter(z).unflatten(1, (32, 8, 8))), mean, spread


class Diffusion(nn.Module):
    """The denoiser of a diffusion model in small: group norms, a time embedding, attention at the bottom."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, width))
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.down = nn.Conv2d(width, width, 3, 2, 1)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3, 3, padding=1)
        self.register_buffer("rates", torch.exp(-torch.arange(8) * 0.9))

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * self.get_buffer("rates")
        when = self.time(torch.cat([angles.sin(), angles.cos()], -1))[:, :, None, None]
        x = self.enter(image)
        x = x + self.convs[0](nn.functional.silu(self.norms[0](x)) + when)
        y = self.down(x)
        q, k, v = self.qkv(self.norms[1](y)).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.transpose(1, 2) @ k * 0.25, -1)
        y = y + self.out((v @ weights.transpose(1, 2)).unflatten(2, (8, 8)))
        y = y + self.convs[1](nn.functional.silu(self.norms[2](y)) + when)
        y = nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        x = self.join(torch.cat([x, y], 1))
        noise: Tensor = self.leave(nn.functional.silu(self.norms[3](x)))
        return noise


def clip() -> nn.Module:
    """Image and text encoders side by side (Radford et al., arXiv:2103.00020)."""
    shared = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": 16,
    }
    picture = shared | {"image_size": 32, "patch_size": 8}
    words = shared | {"vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": 98}
    settings = config("CLIPConfig", text_config=words, vision_config=picture, projection_dim=16)
    takes = ("input_ids", "attention_mask", "pixel_values")
    return Pretrained("CLIPModel", settings, takes, ("text_embeds", "image_embeds"))


def depth() -> nn.Module:
    """Depth from one image (DPT: Ranftl et al., arXiv:2103.13413)."""
    settings = config(
        "DPTConfig",
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 16, 16],
        fusion_hidden_size=16,
        is_hybrid=False,
    )
    return vision("DPTForDepthEstimation", settings, "predicted_depth")


WORDS = (Input("input_ids", ("batch", 9), 99), Input("attention_mask", ("batch", 9), 2))
VAE_OUTPUTS = ("picture", "mean", "spread")

ARCHITECTURES = (
    Architecture("segformer", "segmentation", segformer, image(64)),
    Architecture("unet", "segmentation", UNet, image(), exporters=BOTH),
    Architecture("deeplab", "segmentation", DeepLab, image(), exporters=BOTH),
    Architecture("c3d", "video", Video, (Input("clip", ("batch", 3, 4, 16, 16)),), exporters=BOTH),
    Architecture("dpt", "depth", depth, image()),
    Architecture("dcgan", "generation", DCGAN, (Input("noise", ("batch", 16)),), exporters=BOTH),
    Architecture("vae", "generation", VAE, (*image(), Input("noise", ("batch", 8))), VAE_OUTPUTS),
    Architecture("diffusion", "generation", Diffusion, (*image(16), Input("time", ("batch",)))),
    Architecture("espcn", "super-resolution", espcn, image(16)),
    Architecture("edsr", "super-resolution", EDSR, image(16), exporters=BOTH),
    Architecture("swin2sr", "super-resolution", swin2sr, image(16)),
    Architecture("clip", "image and text", clip, (*WORDS, *image()), ("text_embeds", "image_embeds")),
)

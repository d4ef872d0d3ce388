"""Speech and sound: samples or mel frames to text, features or samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.families import Input
from sample_models.zoo_build import BOTH, Architecture, Pretrained, config

WAVE = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
HIDDEN = ("last_hidden_state",)


def wav2vec2() -> nn.Module:
    settings = config("Wav2Vec2Config", **WAVE, feat_extract_norm="group")
    return Pretrained("Wav2Vec2ForCTC", settings, ("input_values",), ("logits",))


def hubert() -> nn.Module:
    settings = config("HubertConfig", **WAVE, feat_extract_norm="layer", do_stable_layer_norm=True)
    return Pretrained("HubertModel", settings, ("input_values",), HIDDEN)


def wavlm() -> nn.Module:
    return Pretrained("WavLMModel", config("WavLMConfig", **WAVE), ("input_values",), HIDDEN)


def whisper() -> nn.Module:
    settings = config(
        "WhisperConfig",
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=99,
        pad_token_id=0,
        max_source_positions=32,
        max_target_positions=32,
    )
    takes = ("input_features", "decoder_input_ids")
    return Pretrained("WhisperForConditionalGeneration", settings, takes, ("logits",), use_cache=False)


class Residual(nn.Module):
    """HiFi-GAN's block: dilated convolutions, each beside a shortcut."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, kernel, dilation=rate, padding=rate * (kernel - 1) // 2)
            for rate in (1, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(nn.functional.leaky_relu(x, 0.1))
        return x


class HiFiGAN(nn.Module):
    """A vocoder (Kong et al., arXiv:2010.05646): mel frames to samples."""

    def __init__(self, mels: int = 16, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv1d(mels, width, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(width >> i, width >> (i + 1), 8, 4, padding=2) for i in range(2)
        )
        self.narrow = nn.ModuleList(Residual(width >> (i + 1), 3) for i in range(2))
        self.wide = nn.ModuleList(Residual(width >> (i + 1), 5) for i in range(2))
        self.leave = nn.Conv1d(width >> 2, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.enter(mel)
        for up, narrow, wide in zip(self.ups, self.narrow, self.wide, strict=True):
            x = up(nn.functional.leaky_relu(x, 0.1))
            x = (narrow(x) + wide(x)) / 2
        return torch.tanh(self.leave(nn.functional.leaky_relu(x)))


class WaveNet(nn.Module):
    """Gated dilated causal convolutions with skips (van den Oord et al., arXiv:1609.03499)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        rates = (1, 2, 4, 8)
        self.enter = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=rate) for rate in rates)
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in rates)
        self.outs = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in rates)
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 8, 1))
        self.rates = rates

    def forward(self, samples: Tensor) -> Tensor:
        x = self.enter(samples)
        total = torch.zeros_like(x)
        for rate, gate, skip, out in zip(self.rates, self.gates, self.skips, self.outs, strict=True):
            a, b = gate(nn.functional.pad(x, (rate, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(y)
            x = x + out(y)
        scores: Tensor = self.leave(total)
        return scores


class Conformer(nn.Module):
    """One convolution-augmented block (Gulati et al., arXiv:2005.08100) on subsampled frames."""

    def __init__(self, mels: int = 16, size: int = 32) -> None:
        super().__init__()
        self.sample = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
        self.enter = nn.Linear(8 * (mels // 2), size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(5))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 2 * size), nn.SiLU(), nn.Linear(2 * size, size)) for _ in range(2)
        )
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.gate = nn.Conv1d(size, 2 * size, 1)
        self.depth = nn.Conv1d(size, size, 7, padding=3, groups=size)
        self.batch = nn.BatchNorm1d(size)
        self.point = nn.Conv1d(size, size, 1)
        self.head = nn.Linear(size, 20)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.enter(self.sample(mel[:, None]).permute(0, 2, 1, 3).flatten(2))
        x = x + 0.5 * self.feeds[0](self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = nn.functional.glu(self.gate(self.norms[2](x).transpose(1, 2)), 1)
        x = x + self.point(nn.functional.silu(self.batch(self.depth(y)))).transpose(1, 2)
        x = x + 0.5 * self.feeds[1](self.norms[3](x))
        return torch.log_softmax(self.head(self.norms[4](x)), -1)


SPEECH = "speech"
SAMPLES = (Input("samples", ("batch", 640)),)
LISTEN = (Input("input_features", ("batch", 16, 64)), Input("decoder_input_ids", ("batch", 6), 99))

ARCHITECTURES = (
    Architecture("wav2vec2", SPEECH, wav2vec2, SAMPLES, exporters=BOTH),
    Architecture("hubert", SPEECH, hubert, SAMPLES),
    Architecture("wavlm", SPEECH, wavlm, SAMPLES),
    Architecture("whisper", SPEECH, whisper, LISTEN),
    Architecture("conformer", SPEECH, Conformer, (Input("mel", ("batch", 24, 16)),)),
    Architecture("hifigan", "vocoder", HiFiGAN, (Input("mel", ("batch", 16, 12)),), exporters=BOTH),
    Architecture("wavenet", "vocoder", WaveNet, (Input("samples", ("batch", 1, 64)),), exporters=BOTH),
)

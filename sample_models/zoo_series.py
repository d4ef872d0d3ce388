"""Time series, text and recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sample_models.families import Input
from sample_models.zoo_build import BOTH, Architecture, Pretrained, config


class TCN(nn.Module):
    """A temporal convolutional network (Bai et al., arXiv:1803.01271)."""

    def __init__(self, features: int = 8, width: int = 24) -> None:
        super().__init__()
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        self.short = nn.Conv1d(features, width, 1)
        for i in range(3):
            self.first.append(nn.Conv1d(width if i else features, width, 3, dilation=2**i))
            self.second.append(nn.Conv1d(width, width, 3, dilation=2**i))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for i, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            y = torch.relu(first(nn.functional.pad(x, (2 ** (i + 1), 0))))
            y = torch.relu(second(nn.functional.pad(y, (2 ** (i + 1), 0))))
            x = torch.relu(y + (x if i else self.short(x)))
        scores: Tensor = self.head(x[:, :, -1])
        return scores


def patchtst() -> nn.Module:
    settings = config(
        "PatchTSTConfig",
        num_input_channels=3,
        context_length=32,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        d_model=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        loss="mse",
    )
    return Pretrained("PatchTSTForPrediction", settings, ("past_values",), ("prediction_outputs",))


def patchtsmixer() -> nn.Module:
    settings = config(
        "PatchTSMixerConfig",
        context_length=32,
        prediction_length=8,
        patch_length=8,
        patch_stride=8,
        num_input_channels=3,
        d_model=16,
        num_layers=2,
        loss="mse",
    )
    takes, gives = ("past_values",), ("prediction_outputs",)
    return Pretrained("PatchTSMixerForPrediction", settings, takes, gives)


class NBeats(nn.Module):
    """Stacked blocks that each explain a part and pass on the rest (Oreshkin et al., arXiv:1905.10437)."""

    def __init__(self, past: int = 24, future: int = 6, width: int = 32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(past, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            for _ in range(3)
        )
        self.back = nn.ModuleList(nn.Linear(width, past) for _ in range(3))
        self.ahead = nn.ModuleList(nn.Linear(width, future) for _ in range(3))

    def forward(self, past: Tensor) -> Tensor:
        total = torch.zeros_like(past[:, :6])
        for block, back, ahead in zip(self.blocks, self.back, self.ahead, strict=True):
            hidden = block(past)
            past = past - back(hidden)
            total = total + ahead(hidden)
        return total


class Autoformer(nn.Module):
    """Series decomposition (Wu et al., arXiv:2106.13008): a moving average apart from the rest, attention
    on the rest."""

    def __init__(self, features: int = 4, size: int = 32, past: int = 24, future: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv1d(features, size, 3, padding=1)
        self.attention = nn.MultiheadAttention(size, 4, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.norm = nn.LayerNorm(size)
        self.season = nn.Linear(past, future)
        self.trend = nn.Linear(past, future)
        self.leave = nn.Linear(size, features)

    @staticmethod
    def _average(x: Tensor) -> Tensor:
        """Moving average over time, the ends repeated."""
        padded = nn.functional.pad(x.transpose(1, 2), (2, 2), mode="replicate")
        return nn.functional.avg_pool1d(padded, 5, 1).transpose(1, 2)

    def forward(self, past: Tensor) -> Tensor:
        trend = self._average(past)
        x = self.enter((past - trend).transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x - self._average(x)
        x = self.norm(x + self.feed(x))
        season = self.leave(self.season(x.transpose(1, 2)).transpose(1, 2))
        ahead: Tensor = season + self.trend(trend.transpose(1, 2)).transpose(1, 2)
        return ahead


def timesfm() -> nn.Module:
    settings = config(
        "TimesFmConfig",
        patch_length=8,
        context_length=32,
        horizon_length=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
    )
    takes = ("past_values", "past_values_padding", "freq")
    return Pretrained("TimesFmModel", settings, takes, ("last_hidden_state",))


class Tagger(nn.Module):
    """Embedding, a bidirectional recurrent layer, scores per token."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.cell = cell
        self.head = nn.Linear(48, 9)

    def forward(self, input_ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.cell(self.embed(input_ids))[0])
        return scores


def lstm_tagger() -> nn.Module:
    return Tagger(nn.LSTM(16, 24, batch_first=True, bidirectional=True))


def gru_tagger() -> nn.Module:
    return Tagger(nn.GRU(16, 24, batch_first=True, bidirectional=True))


class CRNN(nn.Module):
    """Text in images (Shi et al., arXiv:1507.05717): convolutions, then a recurrent layer along the line."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d((4, 2)), nn.Conv2d(32, 32, (2, 3), padding=(0, 1)),
        )  # fmt: skip
        self.cell = nn.GRU(32, 24, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 12)

    def forward(self, line: Tensor) -> Tensor:
        x = self.layers(line).squeeze(2).transpose(1, 2)
        return torch.log_softmax(self.head(self.cell(x)[0]), -1)


class Cells(nn.Module):
    """An LSTM cell written out, eight steps unrolled: a recurrent network without a recurrent operator."""

    def __init__(self, features: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.gates = nn.Linear(features + hidden, 4 * hidden)
        self.head = nn.Linear(hidden, 3)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        state = memory = torch.zeros_like(x[:, 0, :1]).expand(-1, self.hidden)
        for step in range(8):
            into, forget, new, out = self.gates(torch.cat([x[:, step], state], -1)).chunk(4, -1)
            memory = torch.sigmoid(forget) * memory + torch.sigmoid(into) * torch.tanh(new)
            state = torch.sigmoid(out) * torch.tanh(memory)
        scores: Tensor = self.head(state)
        return scores


class TextCNN(nn.Module):
    """Convolutions of three widths over words, each pooled over time (Kim, arXiv:1408.5882)."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, size)
        self.convs = nn.ModuleList(nn.Conv1d(size, 12, width) for width in (2, 3, 4))
        self.head = nn.Linear(36, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).transpose(1, 2)
        pooled = [torch.relu(conv(x)).amax(-1) for conv in self.convs]
        scores: Tensor = self.head(torch.cat(pooled, 1))
        return scores


SERIES, RECURRENT = "time series", "recurrent"
IDS = (Input("input_ids", ("batch", "sequence"), 50),)
ONE_LAYER = "few nodes around a recurrent operator, which is there once per model"

WINDOW = (
    Input("past_values", ("batch", 32)),
    Input("padding_mask", ("batch", 32)),
    Input("frequency", ("batch", 1), 3),
)

ARCHITECTURES = (
    Architecture("tcn", SERIES, TCN, (Input("x", ("batch", 32, 8)),), exporters=BOTH),
    Architecture("patchtst", SERIES, patchtst, (Input("past", ("batch", 32, 3)),)),
    Architecture("patchtsmixer", SERIES, patchtsmixer, (Input("past", ("batch", 32, 3)),)),
    Architecture("timesfm", SERIES, timesfm, WINDOW),
    Architecture("nbeats", SERIES, NBeats, (Input("past", ("batch", 24)),)),
    Architecture("autoformer", SERIES, Autoformer, (Input("past", ("batch", 24, 4)),)),
    Architecture("lstm_tagger", RECURRENT, lstm_tagger, IDS, exporters=BOTH, reason=ONE_LAYER),
    Architecture("gru_tagger", RECURRENT, gru_tagger, IDS, exporters=BOTH, reason=ONE_LAYER),
    Architecture("crnn", RECURRENT, CRNN, (Input("line", ("batch", 1, 16, 48)),)),
    Architecture("textcnn", "text", TextCNN, (Input("input_ids", ("batch", 16), 99),), exporters=BOTH),
    Architecture("lstm_cells", RECURRENT, Cells, (Input("x", ("batch", 8, 8)),)),
)

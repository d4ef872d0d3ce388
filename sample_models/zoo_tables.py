"""Recommenders, graph networks and policies: networks on ids, tables, edges and observations."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from sample_models.families import Input
from sample_models.zoo_build import BOTH, Architecture


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DLRM(nn.Module):
    """Naumov et al., arXiv:1906.00091: dense and embedded features, their dot products, a click chance."""

    def __init__(self, tables: int = 4, rows: int = 100, size: int = 16) -> None:
        super().__init__()
        self.bottom = mlp(8, 32, size)
        self.tables = nn.ModuleList(nn.Embedding(rows, size) for _ in range(tables))
        pairs = torch.tril_indices(tables + 1, tables + 1, -1)
        self.register_buffer("pairs", pairs[0] * (tables + 1) + pairs[1])
        self.top = mlp(size + pairs.shape[1], 32, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(dense)
        rows = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        dots = torch.bmm(rows, rows.transpose(1, 2)).flatten(1)[:, self.get_buffer("pairs")]
        return torch.sigmoid(self.top(torch.cat([x, dots], 1)))


class DeepFM(nn.Module):
    """Guo et al., arXiv:1703.04247: a factorisation machine beside a deep network on one embedding."""

    def __init__(self, fields: int = 6, rows: int = 200, size: int = 8) -> None:
        super().__init__()
        self.first = nn.Embedding(rows, 1)
        self.second = nn.Embedding(rows, size)
        self.deep = mlp(fields * size, 32, 16, 1)
        self.register_buffer("offsets", torch.arange(fields) * (rows // fields))

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids + self.get_buffer("offsets")
        x = self.second(ids)
        crossed = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.first(ids).sum(1) + crossed + self.deep(x.flatten(1)))


class Towers(nn.Module):
    """Two towers: a user's history, averaged, against an item."""

    def __init__(self, rows: int = 200, size: int = 16) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, size)
        self.user = mlp(size, 32, size)
        self.item = mlp(size, 32, size)

    def forward(self, history: Tensor, mask: Tensor, item: Tensor) -> Tensor:
        seen = mask.float()[..., None]
        x = (self.items(history) * seen).sum(1) / seen.sum(1).clamp(min=1.0)
        user = nn.functional.normalize(self.user(x), dim=-1)
        wanted = nn.functional.normalize(self.item(self.items(item)), dim=-1)
        return (user * wanted).sum(-1) * 10


class Sasrec(nn.Module):
    """Self-attention over a history of items (Kang and McAuley, arXiv:1808.09781)."""

    def __init__(self, rows: int = 100, size: int = 16) -> None:
        super().__init__()
        self.items = nn.Embedding(rows, size)
        self.places = nn.Embedding(32, size)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, 2, 32, batch_first=True, norm_first=True) for _ in range(2)
        )

    def forward(self, history: Tensor) -> Tensor:
        length = history.shape[1]
        x = self.items(history) + self.places(torch.arange(length))
        mask = torch.full((length, length), float("-inf")).triu(1)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        scores: Tensor = x[:, -1] @ self.items.weight.T
        return scores


class GCN(nn.Module):
    """Kipf and Welling, arXiv:1609.02907, with a dense adjacency matrix."""

    def __init__(self, features: int = 8, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 4)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        links = (adjacency > 0).float() + torch.eye(nodes.shape[0])
        scale = links.sum(-1).rsqrt()
        links = links * scale[:, None] * scale[None, :]
        for layer in self.layers:
            nodes = torch.relu(links @ layer(nodes))
        scores: Tensor = self.head(nodes)
        return scores


class GAT(nn.Module):
    """Graph attention (Velickovic et al., arXiv:1710.10903) on a list of edges, with gather and scatter."""

    def __init__(self, features: int = 8, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.sends = nn.ModuleList(nn.Linear(width, 1) for _ in range(2))
        self.takes = nn.ModuleList(nn.Linear(width, 1) for _ in range(2))
        self.head = nn.Linear(width, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        start, end = edges[0], edges[1]
        for enter, sends, takes in zip(self.enter, self.sends, self.takes, strict=True):
            x = enter(nodes)
            score = nn.functional.leaky_relu(sends(x)[start] + takes(x)[end], 0.2)
            weight = torch.exp(score - score.max())
            total = torch.zeros_like(x[:, :1]).index_add(0, end, weight)
            summed = torch.zeros_like(x).index_add(0, end, weight * x[start])
            nodes = nn.functional.elu(summed / (total + 1e-6))
        scores: Tensor = self.head(nodes)
        return scores


class SAGE(nn.Module):
    """GraphSAGE (Hamilton et al., arXiv:1706.02216): the mean of the neighbours by scatter_add."""

    def __init__(self, features: int = 8, width: int = 16) -> None:
        super().__init__()
        self.own = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.other = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        start, end = edges[0], edges[1]
        ones = torch.ones_like(end, dtype=nodes.dtype)
        count = torch.zeros_like(nodes[:, 0]).scatter_add(0, end, ones).clamp(min=1.0)[:, None]
        for own, other in zip(self.own, self.other, strict=True):
            where = end[:, None].expand(-1, nodes.shape[1])
            mean = torch.zeros_like(nodes).scatter_add(0, where, nodes[start]) / count
            nodes = torch.relu(own(nodes) + other(mean))
        scores: Tensor = self.head(nodes.mean(0, keepdim=True))
        return scores


class Policy(nn.Module):
    """Actor and critic on an observation vector."""

    def __init__(self, seen: int = 12, actions: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(seen, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.mean = nn.Linear(64, actions)
        self.spread = nn.Parameter(torch.zeros(actions))
        self.value = nn.Linear(64, 1)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.body(seen)
        mean = torch.tanh(self.mean(x))
        return mean, torch.exp(self.spread.clamp(-5, 2)).expand_as(mean), self.value(x)


class Dueling(nn.Module):
    """A dueling Q-network (Wang et al., arXiv:1511.06581) on stacked frames; the best action out, too."""

    def __init__(self, actions: int = 6) -> None:
        super().__init__()
        self.eyes = nn.Sequential(
            nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()
        )
        self.value = mlp(32 * 4, 32, 1)
        self.gain = mlp(32 * 4, 32, actions)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.eyes(frames / 255)
        gain = self.gain(x)
        quality = self.value(x) + gain - gain.mean(-1, keepdim=True)
        return quality, quality.argmax(-1)


class EarlyExit(nn.Module):
    """Answers from the first layers when these are sure, else from all of them: a condition per model."""

    def __init__(self, seen: int = 12, actions: int = 4) -> None:
        super().__init__()
        self.first = mlp(seen, 32, 32)
        self.more = mlp(32, 64, 64, 32)
        self.head = nn.Linear(32, actions)

    def forward(self, seen: Tensor) -> Tensor:
        x = self.first(seen)
        quick = torch.softmax(self.head(x), -1)

        def slow(x: Tensor, quick: Tensor) -> Tensor:
            return torch.softmax(self.head(self.more(x)), -1)

        answer: Tensor = torch.cond(
            quick.amax(-1).mean() > 0.5, lambda x, quick: quick.clone(), slow, (x, quick)
        )
        return answer


class TabTransformer(nn.Module):
    """Categories attend to each other, numbers pass by (Huang et al., arXiv:2012.06678)."""

    def __init__(self, fields: int = 5, rows: int = 60, size: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, size)
        self.layer = nn.TransformerEncoderLayer(size, 4, 32, activation="gelu", batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = mlp(fields * size + 6, 32, 2)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        x = self.layer(self.embed(categories)).flatten(1)
        scores: Tensor = self.head(torch.cat([x, self.norm(numbers)], 1))
        return scores


class PointNet(nn.Module):
    """Qi et al., arXiv:1612.00593: the same layers on each point, then the maximum over all points."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv1d(fan_in, fan_out, 1), nn.BatchNorm1d(fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = mlp(64, 32, 8)

    def forward(self, points: Tensor) -> Tensor:
        scores: Tensor = self.head(self.layers(points.transpose(1, 2)).amax(-1))
        return scores


class NeRF(nn.Module):
    """A radiance field (Mildenhall et al., arXiv:2003.08934): sines of the position, layers with a skip."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("rates", 2.0 ** torch.arange(4))
        self.first = mlp(27, width, width)
        self.second = mlp(width + 27, width, width)
        self.density = nn.Linear(width, 1)
        self.colour = mlp(width + 3, width, 3)

    def forward(self, place: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        angles = (place[..., None] * self.get_buffer("rates")).flatten(1)
        known = torch.cat([place, angles.sin(), angles.cos()], -1)
        x = torch.relu(self.second(torch.cat([torch.relu(self.first(known)), known], -1)))
        colour = torch.sigmoid(self.colour(torch.cat([x, direction], -1)))
        return colour, nn.functional.softplus(self.density(x))


RECOMMENDER, GRAPH, POLICY = "recommender", "graph network", "policy"
CLICK = (Input("dense", ("batch", 8)), Input("ids", ("batch", 4), 100))
VISIT = (
    Input("history", ("batch", 10), 200),
    Input("attention_mask", ("batch", 10), 2),
    Input("item", ("batch",), 200),
)
NODES = Input("nodes", ("nodes", 8))
MATRIX = (NODES, Input("adjacency", ("nodes", "nodes")))
EDGES = (Input("nodes", (12, 8)), Input("edges", (2, "edges"), 12))
ROW = (Input("categories", ("batch", 5), 60), Input("numbers", ("batch", 6)))
SEEN = (Input("seen", ("batch", 12)),)
FRAMES = (Input("frames", ("batch", 4, 32, 32)),)
RAYS = (Input("place", ("batch", 3)), Input("direction", ("batch", 3)))
ACTED = ("mean", "spread", "value")

GEMMS = "half of its nodes are Gemm, a batched product and the addition of a bias"
BRANCHES = "most of its nodes stand in the branches of an If, whose condition is one per model"

ARCHITECTURES = (
    Architecture("dlrm", RECOMMENDER, DLRM, CLICK, exporters=BOTH),
    Architecture("deepfm", RECOMMENDER, DeepFM, (Input("ids", ("batch", 6), 33),), exporters=BOTH),
    Architecture("two_tower", RECOMMENDER, Towers, VISIT, exporters=BOTH),
    Architecture("sasrec", RECOMMENDER, Sasrec, (Input("history", ("batch", 12), 100),)),
    Architecture("gcn", GRAPH, GCN, MATRIX, exporters=BOTH),
    Architecture("gat", GRAPH, GAT, EDGES, exporters=BOTH),
    Architecture("graphsage", GRAPH, SAGE, EDGES),
    Architecture("actor_critic", POLICY, Policy, SEEN, ACTED, exporters=BOTH, reason=GEMMS),
    Architecture("early_exit", POLICY, EarlyExit, SEEN, reason=BRANCHES),
    Architecture("dueling_dqn", POLICY, Dueling, FRAMES, ("quality", "action")),
    Architecture("pointnet", "points", PointNet, (Input("points", ("batch", 24, 3)),), exporters=BOTH),
    Architecture("nerf", "points", NeRF, RAYS, ("colour", "density")),
    Architecture("tabtransformer", "tables", TabTransformer, ROW),
)

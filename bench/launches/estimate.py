"""Estimates from shapes how long one call would take on an H100; nothing is measured.

Every launch takes LAUNCH, and then as long as the slowest of: its bytes through memory, its bytes through the
cache, its operations. Without a CUDA graph it can't start before the host has issued it. Not modelled are
kernels worse than these rates, data that stays in the 50 MB cache from one launch to the next, and several
streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# Rates are a second, times in microseconds. Lines marked (guess) were never measured here.
MEMORY = 2.8e12  # bytes; 3.0e12 were seen in a large copy on such a card
CACHE = 5.5e12  # bytes out of L2 (guess, from published microbenchmarks)
LINK = 25e9  # bytes between host and device, pinned (guess)
PRODUCT = {"tf32": 250e12, "half": 500e12, "single": 45e12}  # operations; data sheet: 495, 989, 67 (guess)
CONVOLUTION = {"tf32": 120e12, "half": 250e12, "single": 30e12}  # (guess)
FEW, FEW_RATE = 8, 10e12  # channels a group below which tensor cores are no use, and the rate then (guess)
PROCESSORS = 132  # multiprocessors of the card
TILES = {128: 1.0, 64: 0.7}  # sides of the tile that each works on, and the share of the rate then (guess)
SPLIT, SPLITS = 512, 4  # inner sizes are cut into pieces of at least this, so many at most (guess)
LAUNCH = 2.0  # a kernel's own start and end
ISSUE = 5.0  # the host's work for a launch without a CUDA graph
WAIT = 10.0  # a synchronisation: the host sees the end and starts issuing anew

SIZES = {"float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "int32": 4, "bool": 1, "int8": 1}
BLAS_SIZES = {0: 4, 1: 8, 2: 2, 14: 2}
DNN_SIZES = {0: 4, 1: 8, 2: 2, 9: 2}
PICKS = ("Gather", "GatherElements", "GatherND", "Slice", "Split", "EmbedLayerNormalization")
"""Operators that read only as much as they write."""
ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
LAUNCHES = ("kernel", "gemm", "cudnn", "copy", "memset")

Entry = Mapping[str, Any]


class Price(NamedTuple):
    """Bytes, operations and microseconds of a launch, without LAUNCH."""

    size: float
    flops: float
    us: float


def is_launch(entry: Entry) -> bool:
    return entry["kind"] in LAUNCHES


def total(nodes: Sequence[Entry], log: Sequence[Entry], tf32: bool) -> dict[str, float]:
    """Returns the milliseconds of a call, issued by the host and as one CUDA graph, and its bytes and
    operations."""
    host = device = 0.0
    graph = moved = operations = 0.0
    for entry in log:
        if entry["kind"] == "sync":
            host = device = max(host, device) + WAIT
        if not is_launch(entry):
            continue
        size, flops, work = price(entry, nodes, tf32)
        host += ISSUE
        device = max(device, host) + LAUNCH + work
        graph += LAUNCH + work
        moved += size
        operations += flops
    return {"ms": device / 1e3, "graph_ms": graph / 1e3, "gb": moved / 1e9, "gflop": operations / 1e9}


def price(entry: Entry, nodes: Sequence[Entry], tf32: bool) -> Price:
    """Returns the price of a launch by what it moves and computes."""
    kind = entry["kind"]
    if kind == "gemm":
        return _product(entry, tf32)
    if "w" in entry:
        return _convolution(entry, tf32)
    if kind in ("copy", "memset"):
        return _copy(entry)
    if kind == "cudnn" and "x" in entry:
        x, y = (math.prod(entry[key]["shape"]) * DNN_SIZES.get(entry[key].get("type"), 4) for key in "xy")
        size = x + y * (2 if entry["call"] == "AddTensor" else 1)
        return Price(size, 0.0, size / MEMORY * 1e6)
    node = nodes[entry["node"]] if entry["node"] >= 0 else {"op": "", "in": [], "out": []}
    size, flops = _bytes(node), _attention(node)
    return Price(size, flops, max(size / MEMORY, flops / PRODUCT["half"]) * 1e6)


def _copy(entry: Entry) -> Price:
    if entry["kind"] == "memset":
        return Price(entry["bytes"], 0.0, entry["bytes"] / MEMORY * 1e6)
    inside = entry["way"] == "D2D"
    size = entry["bytes"] * (2 if inside else 1)
    return Price(size, 0.0, size / (MEMORY if inside else LINK) * 1e6)


def _product(entry: Entry, tf32: bool) -> Price:
    m, n, k, batch = (entry[key] for key in ("m", "n", "k", "batch"))
    size = BLAS_SIZES.get(entry["type"], 4)
    once = size * (entry["a"] * m * k + entry["b"] * k * n + batch * m * n)
    every = size * batch * (m * k + k * n + m * n)
    flops = 2.0 * m * n * k * batch
    rate = PRODUCT[_precision(size, tf32)] * _share_used(batch, m, n, k)
    return Price(once, flops, max(once / MEMORY, every / CACHE, flops / rate) * 1e6)


def _convolution(entry: Entry, tf32: bool) -> Price:
    w, x, y = (entry[key]["shape"] for key in "wxy")
    size = DNN_SIZES.get(entry["x"].get("type"), 4)
    moved = size * (math.prod(w) + math.prod(x) + math.prod(y))
    flops = 2.0 * math.prod(y) * math.prod(w[1:])
    groups = x[1] // w[1]
    pixels = y[0] * math.prod(y[2:])
    used = _share_used(groups, pixels, w[0] // groups, math.prod(w[1:]))
    few = groups > 1 and w[1] < FEW
    rate = FEW_RATE if few else CONVOLUTION[_precision(size, tf32)] * used
    return Price(moved, flops, max(moved / MEMORY, flops / rate) * 1e6)


def _precision(size: int, tf32: bool) -> str:
    return "half" if size == 2 else "tf32" if tf32 else "single"


def _share_used(count: int, rows: int, columns: int, inner: int) -> float:
    """Returns the share of the card's rate that so many products of this size get: the last wave of tiles is
    as long as a full one. Libraries pick the better of several tiles, and cut long sums when there are few
    of them."""
    shares = []
    for side, speed in TILES.items():
        tiles = count * math.ceil(rows / side) * math.ceil(columns / side)
        for splits in range(1, min(SPLITS, max(1, inner // SPLIT)) + 1):
            work = tiles * splits
            shares.append(speed * work / (math.ceil(work / PROCESSORS) * PROCESSORS))
    return max(shares)


def _bytes(node: Entry) -> float:
    out = sum(_sizes(node["out"]))
    return 2 * out if node["op"] in PICKS else out + sum(_sizes(node["in"]))


def _sizes(tensors: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[float]:
    for tensor in tensors:
        for kind, shape in tensor.items():
            yield SIZES.get(kind, 4) * math.prod(shape)


def _attention(node: Entry) -> float:
    """Returns the operations of a fused attention: two products of every query with every key."""
    if node["op"] not in ATTENTIONS or not node["in"]:
        return 0.0
    query, key = (next(iter(t.values())) for t in (node["in"][0], node["in"][min(1, len(node["in"]) - 1)]))
    return 4.0 * math.prod(query) * key[-2] if len(key) > 1 else 0.0

"""Merged files of all kinds, and their pages read back, for the tests of the page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import onnx
from families import MLP, MLP_TEXT, model, save

import netfuse_onnx

HOSTILE = '</script><img src=x onerror="alert(1)">{{ 7*7 }}\u2028&amp;'
KINDS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared input": {"share": ("x",)},
    "stacked": {"io": "stacked"},
    "selected": {"io": "selected"},
    "slots": {"io": "routed", "routing": "slots"},
    "index": {"io": "routed", "routing": "index"},
    "cpu": {"target": "cpu", "dims": {"n": (1, 8)}},
    "combined": {"io": "stacked", "share": ("x",), "combine": "mean"},
}
IF = """g (float[n, 8] x) => (float[n, 8] y) {
    h = MatMul(x, w)
    s = ReduceSum <keepdims = 0> (x)
    zero = Constant <value = float {0}> ()
    more = Greater(s, zero)
    y = If (more) <
        then_branch = yes () => (float[n, 8] t) { t = Add(h, w2) },
        else_branch = no () => (float[n, 8] e) { e = Mul(h, w2) }
    >
}"""


def named(folder: Path, count: int = 2, name: str = "") -> list[str]:
    """An MLP whose first node has this name."""
    paths = []
    for index in range(count):
        proto = model(MLP_TEXT, MLP, seed=index)
        proto.graph.node[0].name = name
        paths.append(save(folder / f"{'abcdefgh'[index]}.onnx", proto))
    return paths


def chain(folder: Path, blocks: int, count: int = 2) -> list[str]:
    """Models of so many blocks of 5 nodes: a product, a sum, Relu, Tanh, and a sum with the block's input."""
    lines, weights, before = [], {}, "x"
    for b in range(blocks):
        out = "y" if b == blocks - 1 else f"x{b}"
        lines += [f"h{b} = MatMul({before}, layer_{b}_w)", f"s{b} = Add(h{b}, layer_{b}_b)"]
        lines += [f"r{b} = Relu(s{b})", f"t{b} = Tanh(r{b})", f"{out} = Add(t{b}, {before})"]
        weights |= {f"layer_{b}_w": (4, 4), f"layer_{b}_b": (4,)}
        before = out
    text = "g (float[n, 4] x) => (float[n, 4] y) {\n" + "\n".join(lines) + "\n}"
    return [save(folder / f"chain{i}.onnx", model(text, weights, seed=i)) for i in range(count)]


def page(merged: str | Path, **options: Any) -> str:
    """The text of the page of a merged file."""
    out = Path(merged).with_suffix(".html")
    netfuse_onnx.write_report(str(merged), str(out), force=True, **options)
    return out.read_text(encoding="utf-8")


def scene(text: str) -> dict[str, Any]:
    """The graph in a page, as its script reads it."""
    (found,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', text, re.DOTALL)
    value: dict[str, Any] = json.loads(found)
    return value


def shown(text: str) -> str:
    """Return the text that a reader of the page sees, without the graph."""
    body = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def snippet(text: str, title: str) -> str:
    """The text of a snippet."""
    found = re.search(rf'aria-label="{title}"><code class="\w+">(.*?)</code>', text, re.DOTALL)
    assert found, title
    return html.unescape(found[1])


def nodes_of(merged: str) -> int:
    return len(onnx.load(merged, load_external_data=False).graph.node)

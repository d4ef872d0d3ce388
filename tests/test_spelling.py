"""Files of one architecture that exporters spell differently from one opset to the next merge, with both proofs;
what only looks alike is left as it is."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import save
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.spelled import respelled

LONG = "float two = {2.0}, float eps = {0.00001}, int64[1] last = {-1}"
NORM = """m = ReduceMean(x, last) c = Sub(x, m) p = Pow(c, two) v = ReduceMean(p, last) e = Add(v, eps)
    s = Sqrt(e) d = Div(c, s) n = Mul(d, w) y = Add(n, b)"""
GELU = "a = Div(x, r) e = Erf(a) o = Add(e, one) m = Mul(x, o) y = Mul(m, half)"
GELU_2 = "h = Mul(half, x) a = Mul(q, x) e = Erf(a) o = Add(one, e) y = Mul(o, h)"
NUMBERS = "float r = {1.4142135}, float q = {0.70710677}, float one = {1}, float half = {0.5}"
PAIRS: dict[str, tuple[str, str, str]] = {
    "layer normalisation": (f"<{LONG}> {{ {NORM} }}",
        "{ y = LayerNormalization<axis=-1, epsilon=0.00001>(x, w, b) }", "LayerNormalization"),
    "a product for a power": (f"<{LONG}> {{ {NORM.replace('Pow(c, two)', 'Mul(c, c)')} }}",
        "{ y = LayerNormalization<epsilon=0.00001>(x, w, b) }", "LayerNormalization"),
    "gelu": (f"<{NUMBERS}> {{ z = Add(x, w) {GELU.replace('x', 'z')} }}", "{ z = Add(x, w) y = Gelu(z) }", "Gelu"),
    "gelu, the other way round": (f"<{NUMBERS}> {{ z = Add(x, w) {GELU_2.replace('x', 'z')} }}",
        "{ z = Add(x, w) y = Gelu(z) }", "Gelu"),
    "gelu by tanh": ("<float k = {0.044715}, float c = {0.7978846}, float one = {1}, float half = {0.5}> { "
        "z = Add(x, w) s = Mul(z, z) t = Mul(z, s) u = Mul(k, t) v = Add(z, u) p = Mul(c, v) q = Tanh(p) o = Add(one, q) "
        "r = Mul(z, o) y = Mul(half, r) }", '{ z = Add(x, w) y = Gelu<approximate="tanh">(z) }', "Gelu"),
    "hard swish": ("{ z = Add(x, w) h = HardSigmoid<alpha=0.16666667>(z) y = Mul(z, h) }",
        "{ z = Add(x, w) y = HardSwish(z) }", "HardSwish"),
    "layer normalisation without weights": (f"<{LONG}> {{ z = Add(x, w) "
        f"{NORM.split(' n = ')[0].replace('(x, ', '(z, ').replace('d = Div', 'y = Div')} }}",
        "<float[4] one = {1,1,1,1}, float[4] o = {0,0,0,0}> "
        "{ z = Add(x, w) y = LayerNormalization<epsilon=0.00001>(z, one, o) }", "LayerNormalization"),
    "softmax": ("{ z = Add(x, w) t = Transpose<perm=[0,2,1]>(z) s = Softmax<axis=2>(t) y = Transpose<perm=[0,2,1]>(s) }",
        "{ z = Add(x, w) y = Softmax<axis=1>(z) }", "Softmax"),
    "a step": ("<int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {2}, int64[1] t = {1}> "
        "{ z = Add(x, w) u = Slice(z, s, e, a, t) y = Concat<axis=2>(u, u) }",
        "<int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {2}> "
        "{ z = Add(x, w) u = Slice(z, s, e, a) y = Concat<axis=2>(u, u) }", "Slice"),
    "a step, the end is computed": ("<int64[1] s = {1}, int64[1] i = {2}, int64[1] a = {2}, int64[1] t = {1}> "
        "{ z = Add(x, w) n = Shape(z) e = Gather(n, i) u = Slice(z, s, e, a, t) y = Concat<axis=2>(u, u) }",
        "<int64[1] s = {1}, int64[1] i = {2}, int64[1] a = {2}> "
        "{ z = Add(x, w) n = Shape(z) e = Gather(n, i) u = Slice(z, s, e, a) y = Concat<axis=2>(u, u) }", "Slice"),
    "one of an axis": ("<int64[1] s = {-1}, int64[1] e = {9223372036854775807}, int64[1] a = {1}> "
        "{ z = Add(x, w) c = Slice(z, s, e, a) g = Squeeze(c, a) u = Unsqueeze(g, a) y = Add(u, x) }",
        "<int64 i = {-1}, int64[1] a = {1}> { z = Add(x, w) g = Gather<axis=1>(z, i) u = Unsqueeze(g, a) y = Add(u, x) }",
        "Gather"),
    "nothing around": ("<int64[6] p = {0,0,1,0,0,0}, float o = {0}, int64[1] s = {1}, int64[1] e = {9}, int64[1] a = {2}> "
        "{ z = Add(x, w) q = Pad(z, p, o) y = Slice(q, s, e, a) }",
        "<int64[6] p = {0,0,1,0,0,0}, int64[1] s = {1}, int64[1] e = {9}, int64[1] a = {2}> "
        "{ z = Add(x, w) q = Pad(z, p) y = Slice(q, s, e, a) }", "Pad"),
    "no dropout": ("<float o = {0.3}> { z = Add(x, w) d = Dropout(z, o) y = Neg(d) }",
        "{ z = Add(x, w) d = Dropout(z) y = Neg(d) }", "Dropout"),
    "not less": ("{ z = Add(x, w) i = Cast<to=7>(z) j = Cast<to=7>(x) l = Less(i, j) g = Not(l) y = Cast<to=1>(g) }",
        "{ z = Add(x, w) i = Cast<to=7>(z) j = Cast<to=7>(x) g = GreaterOrEqual(i, j) y = Cast<to=1>(g) }",
        "GreaterOrEqual"),
}  # fmt: skip


def model(body: str, seed: int, dims: str = "n,3,4") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : 20]> g (float[{dims}] x) => (float[{dims}] y) {body}'
    found = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name in ("w", "b"):
        if any(name in node.input for node in found.graph.node):
            found.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(4).astype("f"), name))
    return found


@pytest.mark.parametrize("order", [(0, 1), (1, 0, 1)])
@pytest.mark.parametrize("name", PAIRS)
def test_two_spellings_merge(name: str, order: tuple[int, ...], tmp_path: Path) -> None:
    *bodies, op = PAIRS[name]
    paths = [save(tmp_path / f"m{k}.onnx", model(bodies[which], k)) for k, which in enumerate(order)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))
    assert report.ok and report.proof is not None and report.proof.graph.made
    assert op in {row.op for row in report.lowered.nodes}
    assert not report.lowered.replicated or name == "nothing around"


def test_files_that_agree_keep_their_spelling(tmp_path: Path) -> None:
    body = PAIRS["layer normalisation"][0]
    paths = [save(tmp_path / f"m{k}.onnx", model(body, k)) for k in range(2)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))
    assert "LayerNormalization" not in {row.op for row in report.lowered.nodes}


ALIKE = {
    "a middle axis": f"<{LONG.replace('-1', '1')}> {{ {NORM} }}",
    "two means": f"<{LONG}, int64[1] other = {{1}}> {{ {NORM.replace('ReduceMean(p, last)', 'ReduceMean(p, other)')} }}",
    "another power": f"<{LONG.replace('two = {2.0}', 'two = {3.0}')}> {{ {NORM} }}",
    "one weight for all": f"<{LONG}> {{ {NORM} }}".replace("Mul(d, w)", "Mul(d, two)"),
    "another centre": f"<{LONG}> {{ k = Neg(x) {NORM.replace('m = ReduceMean(x', 'm = ReduceMean(k')} }}",
    "not the half": f"<{NUMBERS.replace('0.5', '0.25')}> {{ {GELU} }}",
    "another curve": f"<{NUMBERS.replace('1.4142135', '1.5')}> {{ {GELU} }}",
    "another operand": f"<{NUMBERS}> {{ k = Neg(x) {GELU.replace('Mul(x', 'Mul(k')} }}",
    "divided by x": f"<{NUMBERS}> {{ {GELU.replace('Div(x, r)', 'Div(r, x)')} }}",
    "another slope": "{ h = HardSigmoid<alpha=0.17>(x) y = Mul(x, h) }",
    "another offset": "{ h = HardSigmoid<alpha=0.16666667, beta=0.4>(x) y = Mul(x, h) }",
    "another cube": "<float k = {0.044715}, float c = {0.7978846}, float one = {1}, float half = {0.5}> { "
        "z = Neg(x) s = Mul(x, z) t = Mul(x, s) u = Mul(k, t) v = Add(x, u) p = Mul(c, v) q = Tanh(p) o = Add(one, q) "
        "r = Mul(x, o) y = Mul(half, r) }",
    "moved elsewhere": "{ t = Transpose<perm=[0,2,1]>(x) s = Softmax<axis=-1>(t) y = Transpose<perm=[2,0,1]>(s) }",
    "axes that are none": "{ t = Transpose<perm=[7,2]>(x) s = Softmax<axis=-5>(t) y = Transpose<perm=[1,9,0]>(s) }",
    "NaN": "{ k = Neg(x) l = Less(x, k) g = Not(l) y = Cast<to=1>(g) }",
    "two of an axis": "<int64[1] s = {0}, int64[1] e = {2}, int64[1] a = {1}> { c = Slice(x, s, e, a) y = Squeeze(c, a) }",
    "none at the end": "<int64[1] s = {-1}, int64[1] e = {0}, int64[1] a = {1}> { c = Slice(x, s, e, a) y = Squeeze(c, a) }",
    "another axis": "<int64[1] s = {0}, int64[1] e = {1}, int64[1] a = {1}, int64[1] k = {2}> "
        "{ c = Slice(x, s, e, a) y = Squeeze(c, k) }",
    "every other": "<int64[1] s = {0}, int64[1] e = {3}, int64[1] a = {1}, int64[1] t = {2}> { y = Slice(x, s, e, a, t) }",
    "something around": "<int64[6] p = {0,0,1,0,0,0}, float o = {1}> { y = Pad(x, p, o) }",
    "in training": "<float o = {0.3}, bool t = {1}> { y = Dropout(x, o, t) }",
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_what_only_looks_alike_stays(name: str, tmp_path: Path) -> None:
    proto = model(ALIKE[name], 0)
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    source = load(save(tmp_path / "m.onnx", proto))
    graph = respelled(source).source.graph
    fresh = {node.op for node in graph.nodes} - {node.op for node in source.graph.nodes}
    assert fresh <= {"Mul", "Add"}


def test_the_difference_that_is_left_is_named(tmp_path: Path) -> None:
    one = model(PAIRS["layer normalisation"][0], 0)
    two = model("{ y = LayerNormalization<epsilon=0.001>(x, w, b) }", 1)
    paths = [save(tmp_path / f"m{k}.onnx", proto) for k, proto in enumerate((one, two))]
    with pytest.raises(NotEquivalent, match=r"attribute 'epsilon' is 1e-05 and 0\.001"):
        netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))


# --------------------------------------------------------------------------- exported


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.p, self.f = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.PReLU(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.relu6(self.n(self.a(x)))
        x = functional.interpolate(
            functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2), scale_factor=2.0
        )
        x = functional.hardtanh(self.p(self.b(x)), -0.5, 0.8)
        x = self.f(functional.avg_pool2d(x, 2).mean((2, 3)))
        return functional.log_softmax(x, 1), torch.topk(x, 3, 1)[0]


class Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.q, self.o, self.n = (
            nn.Embedding(30, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.LayerNorm(16),
        )
        self.f, self.g, self.m = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.e(x)
        q, k, v = self.q(h).view(x.shape[0], x.shape[1], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        w = ((q @ k.transpose(-1, -2)) / 2.0).masked_fill(mask[:, None, None, :] == 0, -1e4).softmax(-1)
        h = self.n(h + self.o((w @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], 16)))
        return self.m(h + self.g(functional.gelu(self.f(h)))).softmax(1)


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.o = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.r(x)[0]
        return self.o(h), self.o(h[:, -1]).norm(dim=-1)


ROWS = {0: "n", 1: "t"}
EXPORTED = {
    "pictures": (Pictures, (torch.zeros(2, 3, 16, 16),), {"x": {0: "n"}}),
    "texts": (Texts, (torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)), {"x": ROWS, "mask": ROWS}),
    "series": (Series, (torch.zeros(2, 5, 4),), {"x": ROWS}),
}  # fmt: skip


@pytest.mark.parametrize("opsets", [(11, 13, 17), (10, 17), (17, 20), (14, 18)])
@pytest.mark.parametrize("name", EXPORTED)
def test_one_network_exported_at_several_opsets(name: str, opsets: tuple[int, ...], tmp_path: Path) -> None:
    make, inputs, axes = EXPORTED[name]
    if name == "pictures" and opsets[0] == 10:
        pytest.skip("torch computes the pads with nodes from opset 11 on: another graph")
    paths = [str(tmp_path / f"m{version}.onnx") for version in opsets]
    for path, version in zip(paths, opsets, strict=True):
        torch.manual_seed(version)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                make().eval(), inputs, path, dynamo=False, opset_version=version, input_names=list(axes),
                dynamic_axes=axes,
            )  # fmt: skip
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"))
    assert report.ok and report.proof is not None and report.proof.graph.made
    assert {row.op for row in report.lowered.replicated} <= {"LSTM", "Shape", "TopK"}

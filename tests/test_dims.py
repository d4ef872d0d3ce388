"""Names of dims as exporters write them: any text is one, and what is computed from others gets no size of its
own. See test_inputs.py for what is a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import model, save

import netfuse_onnx
from cli.main import main
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.types import Dim
from netfuse_onnx.write import metadata


def named(
    folder: Path, text: str, inputs: Mapping[str, Sequence[Dim]], w: Sequence[int] = (4, 2)
) -> list[str]:
    """Two files of a text, the dims of whose inputs are renamed: ONNX text has no quotes for them."""
    paths = []
    for k, label in enumerate("ab"):
        made = model(text, {"w": w}, seed=k)
        for value in made.graph.input:
            for dim, name in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
                if isinstance(name, str):
                    dim.dim_param = name
        paths.append(save(folder / f"{label}.onnx", made))
    return paths


PRODUCT = "g (float[n, m, 4] x) => (float[p, q, 2] y) { y = MatMul(x, w) }"
TEXTS = ("batch-size", "max-len", "a+b", "a * b", "n/a", "batch size", "größe", "バッチ", "seq.len", "2d", "3", "dim=4", "-1",
         "?", "None", "floor(x)", "unk__12", "n'", 'n"', "a,b")  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_is_the_name_of_a_dim(name: str, tmp_path: Path) -> None:
    paths, out = named(tmp_path, PRODUCT, {"x": (name, "t", 4)}), str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(paths, out)
    assert report.symbols == (name, "t")
    assert report.proof.values.cases[:2] == (f"{name}=1, t=8", f"{name}=2, t=8")
    assert main(["merge", *paths, "-o", out, "--dim", f"{name}=3", "--dim", "t=5"]) == 0
    assert metadata.read(out).dims == {name: 3, "t": 5}
    assert netfuse_onnx.verify(out, paths).values.cases == (f"{name}=3, t=5",)
    assert [dim.dim_param for dim in onnx.load(out).graph.input[0].type.tensor_type.shape.dim[:2]] == [
        name,
        "t",
    ]


SUM = "g (float[n, m, 4] x, float[n, s, 4] z) => (float[p, q, 2] y) { h = Concat<axis = 1>(x, z) y = MatMul(h, w) }"


@pytest.mark.parametrize(
    ("dims", "given", "case"),
    [
        (
            ("batch", "max-len", "batch-size"),
            {"max-len": 5, "batch-size": 6},
            "batch=1, max-len=5, batch-size=6",
        ),
        (("batch", "size", "batch + size"), {"size": 5}, "batch=1, size=5"),
        (("batch", "size", "floor(size/2)"), {"size": 9}, "batch=1, size=9"),
        (("batch", "2*seq + 1", "seq"), {"seq": 4}, "batch=1, seq=4"),
        (("batch", "max-len", "max-len + 1"), {"max-len": 4}, "batch=1, max-len=4"),
    ],
)
def test_a_size_of_dims_that_others_are_computed_from(
    dims: tuple[str, str, str], given: Mapping[str, int], case: str, tmp_path: Path
) -> None:
    batch, one, two = dims
    paths = named(tmp_path, SUM, {"x": (batch, one, 4), "z": (batch, two, 4)})
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), dims=given)
    assert report.proof.values.cases[0] == case


def test_a_size_for_a_sum_is_refused(tmp_path: Path) -> None:
    paths = named(tmp_path, SUM, {"x": ("n", "s", 4), "z": ("n", "s + 1", 4)})
    with pytest.raises(UsageFault, match=r"no symbolic dimension 's \+ 1'") as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), dims={"s + 1": 4})
    assert "n, s" in caught.value.hint


IMAGE = "g (float[a, b, c, d] x) => (float[e, f, g, h] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("name", ["?", "None", "dynamic", "N"])
def test_axes_of_one_name_may_have_sizes_of_their_own(name: str, tmp_path: Path) -> None:
    """An image of 3 channels whose axes all have the name of what is unknown. The batch is the first axis."""
    paths = named(tmp_path, IMAGE, {"x": (name,) * 4}, (5, 3, 3, 3))
    out = str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(paths, out)
    assert report.proof.values.cases[0].startswith("x.0=1, x.1=3, x.2=")
    rng = np.random.default_rng(3)
    x = {f"{label}/x": rng.standard_normal((2, 3, 6, 9)).astype(np.float32) for label in "ab"}
    got = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, x)
    for label, path, mine in zip("ab", paths, got, strict=True):
        alone = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(mine, alone.run(None, {"x": x[f"{label}/x"]})[0], rtol=1e-4, atol=1e-5)
    assert netfuse_onnx.bench(out, paths, rounds=1, seconds=0.0).case.startswith("x.0=1, x.1=3, x.2=")


def test_sizes_of_axes_that_share_a_name(tmp_path: Path) -> None:
    paths = named(tmp_path, PRODUCT.replace("m, 4", "m, k"), {"x": ("?", "?", "?")})
    out = str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(paths, out, dims={"x.2": 4})
    assert report.proof.values.cases[0] == "x.0=1, x.2=4, x.1=8"
    assert netfuse_onnx.verify(out, paths).values.cases[0] == "x.0=1, x.2=4, x.1=8"
    assert netfuse_onnx.merge(paths, out, dims={"?": 4}).proof.values.cases == ("?=4",)

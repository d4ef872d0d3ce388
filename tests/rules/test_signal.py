"""Signals, determinants, losses, and the crops, eyes and caches that are batched along axes of their own."""

import pytest
from oracle import check, draw, few_roles, graph, roles, sweep

OPS = (
    "CenterCropPad", "DFT", "Det", "EyeLike", "MeanVarianceNormalization", "NegativeLogLikelihoodLoss",
    "STFT", "SoftmaxCrossEntropyLoss",
)  # fmt: skip
SIZES = {"B": 3, "S": 4}


@pytest.mark.parametrize("x", ["3,3", "2,3,3", "B,3,3"])
def test_det(x, tmp_path):
    sweep(graph(f"float[{x}] x", "y = Det(x)"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("opset", [17, 20])
def test_dft(axis, opset, tmp_path):
    if opset == 17:
        sweep(graph("float[2,3,4,1] x", f"y = DFT<axis = {axis}>(x)", 17), tmp_path, keep_opset=True)
    else:
        model = graph("float[2,3,4,1] x, int64 a", "y = DFT(x, , a)", 20)
        sweep(model, tmp_path, given={"a": axis})


def test_stft(tmp_path):
    model = graph("float[B,16,1] x, int64 s, float[4] w, int64 n", "y = STFT<onesided = 1>(x, s, w, n)")
    given = {"s": 4, "w": [0.5, 1.0, 1.0, 0.5], "n": 4}
    sweep(model, tmp_path, sizes=SIZES, given=given)


@pytest.mark.parametrize("axes", [[0], [2, 3], [-1, 1], [0, 2, 3]])
def test_mean_variance(axes, tmp_path):
    sweep(graph("float[3,2,3,4] x", f"y = MeanVarianceNormalization<axes = {axes}>(x)"), tmp_path)


@pytest.mark.parametrize(("axes", "shape"), [("", [2, 6]), ("<axes = [1]>", [2]), ("<axes = [-2]>", [5])])
def test_center_crop_pad(axes, shape, tmp_path):
    """With separate inputs: behind a Transpose ONNX Runtime 1.32 fails to optimise it."""
    model = graph(f"float[3,4] x, int64[{len(shape)}] s", f"y = CenterCropPad{axes}(x, s)", 18)
    for n, x in ((2, "input"), (3, "input"), (3, "weight")):
        check(model, draw(model, n, given={"s": shape}), {"x": x, "s": "shared weight"}, tmp_path)


@pytest.mark.parametrize("x", ["3,4", "B,3"])
def test_eye_like(x, tmp_path):
    model = graph(f"float[{x}] x", "e = EyeLike<k = 1>(x)  y = Mul(e, x)")
    sweep(model, tmp_path, sizes=SIZES)


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("x", "labels"), [("3,4", "3"), ("B,4,2", "B,2")])
@pytest.mark.parametrize("weights", ["", ", float[4] w"])
def test_losses(op, reduction, x, labels, weights, tmp_path):
    names = "xtw" if weights else "xt"
    text = f"float[{x}] x, int64[{labels}] t{weights}"
    model = graph(text, f'y = {op}<reduction = "{reduction}", ignore_index = 1>({", ".join(names)})')
    kinds = ("input", "shared input") if x == "B,4,2" else ("input", "shared weight")
    chosen = roles(names, kinds)  # one open batch: stored samples beside fed labels have another
    for role in chosen:
        values = draw(model, 3, sizes=SIZES, low=0, high=3)
        values["t"].reshape(3, -1)[:, :2] = 2, 3  # not every label of a model may be the ignored one
        check(model, values, role, tmp_path)


def test_loss_with_its_log_probabilities(tmp_path):
    for weights in ("", ", float[4] w"):
        names = "xtw" if weights else "xt"
        model = graph(
            f"float[3,4,2] x, int64[3,2] t{weights}", f"y, p = SoftmaxCrossEntropyLoss({', '.join(names)})"
        )
        for role in few_roles(names):
            check(model, draw(model, 3, low=0, high=3), role, tmp_path, alike="p")

"""ONNX Runtime's operators on channels in blocks. Any numbers do: what order they stand in is its affair."""

import pytest
from contrib_graphs import graph, shapes_agree
from oracle import IO, check, draw

OPS = tuple(
    f"com.microsoft.nchwc.{op}"
    for op in (
        "AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput", "ReorderOutput", "Upsample",
    )
)  # fmt: skip
SIZES = {"B": 3}


def every(model, folder, roles):
    for turn, role in enumerate(roles):
        values = draw(model, (3, 2)[turn % 2], sizes=SIZES)
        if not turn:
            shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
        check(model, values, role, folder, io=IO[turn % 2])


ROLES = [("input", "weight"), ("input", "shared weight"), ("shared input", "weight")]


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [("B,16,5,4", "32,16,3,2", "pads = [1, 0, 1, 1]"), ("2,32,4,4", "16,32,1,1", 'activation = "Relu"'),
     ("B,16,5,4", "16,1,3,3", "group = 16, pads = [1, 1, 1, 1], strides = [2, 1]")],
)  # fmt: skip
def test_conv(x, w, attributes, tmp_path):
    filters, kernel = w.split(",")[0], ", ".join(w.split(",")[2:])
    call = f"com.microsoft.nchwc.Conv<kernel_shape = [{kernel}], {attributes}>"
    model = graph(f"float[{x}] x, float[{w}] w, float[{filters}] b", f"y = {call}(x, w, b)")
    every(model, tmp_path, [{"x": a, "w": b, "b": b} for a, b in ROLES])


def test_conv_of_few_channels(tmp_path):
    """An image whose channels fill no block comes as it is, and there is no group of those."""
    model = graph(
        "float[B,3,5,4] x, float[16,3,3,3] w", "y = com.microsoft.nchwc.Conv<kernel_shape = [3, 3]>(x, w)"
    )
    every(model, tmp_path, [{"x": a, "w": b} for a, b in ROLES[1:]])
    check(model, draw(model, 3, sizes=SIZES), {"x": "input", "w": "weight"}, tmp_path, reason="blocks")


def test_conv_with_a_sum(tmp_path):
    text = "float[B,16,5,4] x, float[16,16,1,1] w, float[16] b, float[B,16,5,4] z"
    call = 'com.microsoft.nchwc.Conv<kernel_shape = [1, 1], activation = "Relu">'
    model = graph(text, f"y = {call}(x, w, b, z)")
    every(
        model,
        tmp_path,
        [{"x": a, "w": b, "b": b, "z": z} for a, b in ROLES for z in ("input", "shared input")],
    )


@pytest.mark.parametrize(
    "call", ["MaxPool<kernel_shape = [2, 2], strides = [2, 1]>", "AveragePool<kernel_shape = [3, 2], pads = [1, 0, 1, 1]>",
             "GlobalAveragePool", "GlobalMaxPool", "Upsample<scales = [1, 1, 2, 2]>"]
)  # fmt: skip
def test_pools(call, tmp_path):
    every(graph("float[B,16,5,4] x", f"y = com.microsoft.nchwc.{call}(x)"), tmp_path, [{"x": "input"}] * 2)


@pytest.mark.parametrize("channels", [16, 8])
def test_there_and_back(channels, tmp_path):
    body = f"""z = com.microsoft.nchwc.ReorderInput(x)  p = com.microsoft.nchwc.GlobalMaxPool(z)
               y = com.microsoft.nchwc.ReorderOutput<channels = {channels}>(p)"""
    every(graph(f"float[B,{channels},4,3] x", body), tmp_path, [{"x": "input"}] * 2)


def test_there_and_back_from_last_channels(tmp_path):
    body = """z = com.microsoft.nchwc.ReorderInput<channels_last = 1>(x)  p = Relu(z)
              y = com.microsoft.nchwc.ReorderOutput<channels = 16, channels_last = 1>(p)"""
    every(graph("float[B,4,3,16] x", body), tmp_path, [{"x": "input"}] * 2)

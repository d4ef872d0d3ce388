"""Requests of unequal lengths share a call where padding is proven to change nothing, and get their own sizes
back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnxruntime as ort
import pytest

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import padding
from netfuse_onnx.runtime.buckets import Buckets, sized
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.packing import Packing
from netfuse_onnx.runtime.types import Request

F = np.float32
MASKED = """g (float[batch, seq, 4] x, float[batch, seq] mask) => (float[batch, seq, 3] y, float[batch, 3] z) {
    m = Unsqueeze(mask, two)
    y = MatMul(x, w)
    masked = Mul(y, m)
    total = ReduceSum <keepdims: int = 0> (masked, one)
    count = ReduceSum <keepdims: int = 0> (m, one)
    z = Div(total, count)
}"""
MEAN = """g (float[batch, seq, 4] x) => (float[batch, 3] z) {
    y = MatMul(x, w)
    z = ReduceMean <keepdims: int = 0, axes: ints = [1]> (y)
}"""
TWICE = """g (float[batch, seq, 4] x) => (float[batch, twice, 3] z) {
    y = MatMul(x, w)
    z = Concat <axis: int = 1> (y, y)
}"""
IDS = """g (int64[batch, seq] ids, int64[batch, seq] attention_mask) => (float[batch, 3] z) {
    e = Gather <axis: int = 0> (w, ids)
    f = Cast <to: int = 1> (attention_mask)
    m = Unsqueeze(f, two)
    masked = Mul(e, m)
    z = ReduceMax <keepdims: int = 0, axes: ints = [1]> (masked)
}"""
BIASED = """g (float[batch, seq, 4] x, float[batch, seq] mask) => (float[batch, 3] z) {
    h = MatMul(x, w)
    m = Unsqueeze(mask, two)
    masked = Mul(h, m)
    i = Add(masked, b)
    z = ReduceSum <keepdims: int = 0> (i, one)
}"""
ENDS = "seq] mask) => (float[batch, seq, 3] y, float[batch, 3] z)"


class Served:
    """A family, merged and by itself."""

    def __init__(
        self, folder: Path, text: str, io: str, buckets: Buckets, rows: int = 4, biases: Sequence[Any] = ()
    ) -> None:
        import onnx
        from onnx import numpy_helper

        paths = []
        for m in range(3):
            proto: onnx.ModelProto = families.model(text, {"w": (rows, 3)}, seed=m)
            for name, value in (("one", 1), ("two", 2)):
                proto.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
            if biases:
                proto.graph.initializer.append(numpy_helper.from_array(np.array(biases[m], F), "b"))
            paths.append(families.save(folder / f"m{m}.onnx", proto))
        out = families.merged(folder, paths, io=io)
        self.merged, *self.own = [
            ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (out, *paths)
        ]
        self.contract = Contract.read(self.merged, own=self.own[0], rows_apart=True, buckets=buckets)
        self.packing = Packing(self.contract)

    def alone(self, model: int, feeds: Mapping[str, Any]) -> dict[str, Any]:
        names = [port.name for port in self.own[model].get_outputs()]
        return dict(zip(names, self.own[model].run(names, feeds), strict=True))

    def prove(self) -> None:
        plain = self.contract.unpadded()

        def merged(models: Sequence[int], each: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
            requests = [plain.check(f"m{m}", feeds) for m, feeds in zip(models, each, strict=True)]
            packed = Packing(plain).merged(requests)
            results = self.merged.run(packed.wanted, packed.feeds)
            return packed.split(dict(zip(packed.wanted, results, strict=True)))

        padding.prove(self.contract, self.each_alone, merged)

    def each_alone(self, models: Sequence[int], each: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self.alone(m, feeds) for m, feeds in zip(models, each, strict=True)]

    def request(self, model: int, rows: int, size: int, seed: int) -> Request:
        rng = np.random.default_rng(seed)
        x, mask = rng.standard_normal((rows, size, 4)).astype(F), np.ones((rows, size), F)
        return self.contract.check(f"m{model}", {"x": x, "mask": mask})


@pytest.mark.parametrize("io", ["separate", "stacked", "selected", "slots", "index"])
def test_unequal_lengths_share_a_call(io: str, tmp_path: Path) -> None:
    served = Served(tmp_path, MASKED, io, Buckets({"seq": [4, 8]}))
    served.prove()
    for call, sizes in enumerate([(3, 3, 3), (1, 4, 2), (5, 8, 6), (7, 5, 8)]):
        lists = [
            [served.request(m, 1, size, 10 * call + m) for m, size in enumerate(sizes)],
            [
                served.request(m, rows, size, 99 + m)
                for m, rows, size in zip((2, 0, 2), (1, 2, 3), sizes, strict=True)
            ],
        ]
        for requests in lists:
            packed = served.packing.merged(requests)
            results = served.merged.run(packed.wanted, packed.feeds)
            found = packed.split(dict(zip(packed.wanted, results, strict=True)))
            packed.release()
            compare(served, requests, found)


def compare(served: Served, requests: list[Request], found: list[dict[str, Any]]) -> None:
    for request, out in zip(requests, found, strict=True):
        expected = served.alone(request.model, dict(zip(("x", "mask"), request.inputs, strict=True)))
        for name, value in expected.items():
            assert out[name].shape == value.shape
            np.testing.assert_allclose(out[name], value, rtol=1e-4, atol=1e-5)


def test_requests_of_one_model_are_padded_to_each_other(tmp_path: Path) -> None:
    served = Served(tmp_path, MASKED, "stacked", Buckets({"seq": 4}))
    for sizes in ((3, 4, 1), (2,), (6, 8)):
        requests = [served.request(1, k + 1, size, k) for k, size in enumerate(sizes)]
        packed = served.packing.alone(requests)
        assert packed.feeds["x"].shape[1] == (sizes[0] if len(sizes) == 1 else -(-sizes[0] // 4) * 4)
        compare(served, requests, packed.split(served.alone(1, packed.feeds)))


def test_masks_are_padded_with_zeros_or_as_the_caller_says(tmp_path: Path) -> None:
    for pad, expected in (({}, [0, 0]), ({"mask": 7}, [7, 0])):
        served = Served(tmp_path, MASKED, "stacked", Buckets({"seq": 4}, pad=pad))
        packed = served.packing.merged([served.request(m, 1, 3, m) for m in range(3)])
        assert (packed.feeds["mask"][:, :, 3] == expected[0]).all()
        assert (packed.feeds["x"][:, :, 3] == expected[1]).all()
        assert (packed.feeds["mask"][:, :, :3] == 1).all()
    with pytest.raises(UsageFault, match="'z' of model 'm0' by up to"):
        served.prove()


@pytest.mark.parametrize(
    ("text", "why"),
    [(MEAN, "changes output 'z' of model 'm0' by up to"), (TWICE, "changes the shape of output 'z'")],
)
def test_a_model_that_reads_the_padding_is_refused(text: str, why: str, tmp_path: Path) -> None:
    served = Served(tmp_path, text, "stacked", Buckets({"seq": 8}))
    with pytest.raises(UsageFault, match=why):
        served.prove()
    Served(tmp_path, text, "stacked", Buckets({"seq": 1})).prove()  # nothing is ever padded
    Served(tmp_path, text, "stacked", Buckets({})).prove()


def test_whole_numbers_are_below_the_sizes_of_tables(tmp_path: Path) -> None:
    """A table of two rows is read with the second choice of values. Nothing runs where even 0 is not read."""
    served = Served(tmp_path, IDS, "stacked", Buckets({"seq": 4}), rows=2)
    with pytest.raises(UsageFault, match="'z'"):
        served.prove()  # the largest of negative values is the padding's 0
    with pytest.raises(UsageFault, match="could not be checked"):
        padding.prove(served.contract, lambda models, each: [{}[""]], None)


def test_a_model_that_fails_when_padded_is_refused(tmp_path: Path) -> None:
    served = Served(tmp_path, MASKED, "stacked", Buckets({"seq": 8}))

    def run(models: Sequence[int], each: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if each[0]["x"].shape[1] == 8:
            raise ValueError("8 is too long")
        return served.each_alone(models, each)

    with pytest.raises(UsageFault, match=r"Model 'm0' runs .* not when 'seq' is padded .8 is too long"):
        padding.prove(served.contract, run, None)
    with pytest.raises(UsageFault, match=r"The merged file runs .* not when 'seq' is padded"):
        padding.prove(served.contract, served.each_alone, run)


@pytest.mark.parametrize("io", ["separate", "stacked", "selected", "slots", "index"])
@pytest.mark.parametrize("way", ["alone", "merged"])
def test_each_model_must_leave_out_the_padding(io: str, way: str, tmp_path: Path) -> None:
    """The bias of the last one stands at padded places, too."""
    biases = ([0, 0, 0], [0, 0, 0], [0, 1, 0])
    served = Served(tmp_path, BIASED, io, Buckets({"seq": 8}), biases=biases)
    with pytest.raises(UsageFault, match="changes output 'z' of model 'm2'"):
        served.prove() if way == "merged" else padding.prove(served.contract, served.each_alone, None)


def test_sizes_may_follow_from_others() -> None:
    axes = ["past + 1", "past", "2*past", "batch-size"]
    assert sized(axes, lambda axis: 4) == {"past": 4, "past + 1": 5, "2*past": 8, "batch-size": 4}


def test_sizes_lie_between_buckets() -> None:
    assert [padding._between(sizes) for sizes in (8, 1, [4, 8], [1, 2], [1, 2, 9], [1])] == [4, 1, 2, 2, 6, 1]

"""Sessions serve families with odd edges: outputs that are inputs, scalars, inputs and outputs without a batch.

Each answer is compared with that of the model's own file, in calls that are merged, in every I/O mode that takes the
family, and again when the buffers of the calls before are used once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeCosts
from families import model, save
from onnx import numpy_helper
from test_session_files import MODES, Sources

import netfuse_onnx
from netfuse_onnx import MergedSession
from netfuse_onnx.errors import NotStackable
from netfuse_onnx.runtime.errors import BadInput

W = {"w": (4, 3)}
CONSTANTS = {"axis": np.array([1])}
ODD: dict[str, str] = {
    "input-as-output": """g (float[n,4] x, float[n,3] z) => (float[n,4] x, float[n,3] y) {
        h = MatMul(x, w)  y = Add(h, z) }""",
    "input-as-output-beside-bits": """g (bfloat16[n,4] x, float[n,3] z) => (float[n,3] z, bfloat16[n,3] y) {
        f = Cast<to = 1>(x)  h = MatMul(f, w)  a = Add(h, z)  y = Cast<to = 16>(a) }""",
    "scalars": """g (float[n,4] x, float s) => (float[n,3] y, float m) {
        h = MatMul(x, w)  y = Mul(h, s)  m = ReduceMean<keepdims = 0>(y) }""",
    "input-without-batch": "g (float[n,4] x, float[3] t) => (float[n,3] y) { h = MatMul(x, w)  y = Mul(h, t) }",
    "output-without-batch": """g (float[n,4] x) => (float[n,3] y, int64[2] s, float[4,3] w) {
        y = MatMul(x, w)  s = Shape(y) }""",
    "mask": """g (float[n,4] x, bool[n] m) => (float[n,3] y, bool[n,1] u) {
        h = MatMul(x, w)  u = Unsqueeze(m, axis)  k = Constant<value_float = 0.0>()  y = Where(u, h, k) }""",
    "two-batches": """g (float[n,4] q, float[m,4] k) => (float[n,m] y) {
        a = MatMul(q, w)  b = MatMul(k, w)  c = Transpose<perm = [1,0]>(b)  y = MatMul(a, c) }""",
    "batch-behind": "g (float[s,n,4] x) => (float[s,n,3] y) { y = MatMul(x, w) }",
}
KINDS = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(bfloat16)": np.uint16}


def drawn(session: Any, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Inputs of an open session, with these sizes of its symbolic axes."""
    rng, found = np.random.default_rng(seed), {}
    for port in session.get_inputs():
        value = np.asarray(rng.standard_normal([sizes.get(dim, dim) for dim in port.shape]))
        if port.type == "tensor(bfloat16)":
            value = (value.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        found[port.name] = value > 0 if port.type == "tensor(bool)" else value.astype(KINDS[port.type])
    return found


def equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        a, b = (np.asarray(each, np.float64) for each in (found[name], value))
        np.testing.assert_allclose(a, b, rtol=1e-2 if value.itemsize < 4 else 1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_family_is_served_as_its_own_files_answer(kind: str, mode: str, tmp_path: Path) -> None:
    paths = []
    for m in range(3):
        proto = model(ODD[kind], W, seed=m)
        proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in CONSTANTS.items())
        paths.append(save(tmp_path / f"{'abc'[m]}.onnx", proto))
    try:
        proved = "bits" in kind and mode == "separate"
        netfuse_onnx.merge(paths, str(tmp_path / "served"), views=True, verify=proved, **MODES[mode])  # type: ignore[arg-type]
    except NotStackable:  # what a call of several rows can't have; which that is, other tests say
        assert mode not in ("separate", "stacked")
        return
    own = Sources(tmp_path).models
    with (
        MergedSession(tmp_path / "served", calibrate=0.0) as session,
        MergedSession(tmp_path / "served", calibrate=0.0) as alone,
    ):
        session._dispatcher.current.engine.costs = FakeCosts(merged=0.01)
        alone._dispatcher.current.engine.costs = FakeCosts(merged=1e9)
        for call in range(4):
            sizes = {"n": 1 + call % 2, "m": 2, "s": 3}
            pairs = [(m, drawn(own[m], 10 * call + k, sizes)) for k, m in enumerate("cab")]
            wanted = [alone.run(m, feeds) for m, feeds in pairs]
            for found, answer in zip(session.run_many(pairs), wanted, strict=True):
                equal(found, answer)
            for (_, feeds), answer in zip(pairs, wanted, strict=True):
                for name in feeds.keys() & answer.keys():  # an output that is an input
                    assert np.array_equal(answer[name], feeds[name])
                    assert not np.shares_memory(answer[name], feeds[name])
            if "bits" not in kind:
                for (m, feeds), answer in zip(pairs, wanted, strict=True):
                    names = [port.name for port in own[m].get_outputs()]
                    equal(answer, dict(zip(names, own[m].run(names, feeds), strict=True)))
        assert session.stats()["calls"]["merged"] or kind == "input-without-batch"
        assert session.stats()["requests"]["failed"] == 0


SEQUENCE = """g (seq(float[n,4]) x) => (float[n,3] y) {
    i = Constant<value_int = 0>()  a = SequenceAt(x, i)  y = MatMul(a, w) }"""
OPTIONAL = """g (optional(seq(float[n,4])) x) => (float[n,3] y) {
    s = OptionalGetElement(x)  i = Constant<value_int = 0>()  a = SequenceAt(s, i)  y = MatMul(a, w) }"""


@pytest.mark.parametrize("text", [SEQUENCE, OPTIONAL])
def test_sequences_of_other_sizes_share_no_call(text: str, tmp_path: Path) -> None:
    """A symbol is one size for all models of a call, also those whose slots hold an earlier sequence."""
    paths = [save(tmp_path / f"{'abc'[m]}.onnx", model(text, W, seed=m)) for m in range(3)]
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out, verify=False)
    own = Sources(tmp_path)
    with MergedSession(out, calibrate=0.0) as session:
        for k, sizes in enumerate([(1,), (2,), (1, 3), (2, 2), (1, 2, 1)]):
            feeds = [{"x": [np.full((rows, 4), k + rows, np.float32)] * 2} for rows in sizes]
            pairs = list(zip("cab", feeds, strict=False))
            for (m, fed), answer in zip(pairs, session.run_many(pairs), strict=True):
                own.right(m, fed, answer)
        assert session.stats()["calls"]["merged"] == 1 + 1 + 2 + 1 + 2


SIZES = {
    "inner": "g (float[n,{0}] x) => (float[n,{0}] y) {{ r = Relu(x)  y = Mul(r, w) }}",
    "table": """g (float[2,3] t, float[n,{0}] x) => (float[n,{0}] y) {{
        s = ReduceSum<keepdims = 0>(t)  r = Mul(x, s)  y = Mul(r, w) }}""",
    "no-batch": """g (float[n,2] z, float[{0}] x) => (float[n,2] y) {{
        s = ReduceSum<keepdims = 0>(x)  r = Mul(z, s)  y = Mul(r, w) }}""",
}
"""Models whose input x has a size that may be fixed."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("fixed", [1, 4])
def test_each_models_own_file_says_which_sizes_it_takes(
    kind: str, mode: str, fixed: int, tmp_path: Path
) -> None:
    """Model b has fixed sizes, so the merged file has; the other two take all, and run by themselves then."""
    paths = [
        save(
            tmp_path / f"{name}.onnx", model(SIZES[kind].format(fixed if name == "b" else "s"), {"w": ()}, m)
        )
        for m, name in enumerate("abc")
    ]
    netfuse_onnx.merge(paths, str(tmp_path / "served"), views=True, verify=False, **MODES[mode])  # type: ignore[arg-type]
    own = Sources(tmp_path)
    with MergedSession(tmp_path / "served", calibrate=0.0) as session:
        session._dispatcher.current.engine.costs = FakeCosts(merged=0.01)
        for size in (fixed, 7, fixed, 2):
            feeds = drawn(own.models["a"], size, {"n": 2, "s": size})
            fit = "abc" if size == fixed else "ac"
            for repeat in (1, 3):
                pairs = [(m, feeds) for m in fit] * repeat
                for (m, fed), answer in zip(pairs, session.run_many(pairs), strict=True):
                    own.right(m, fed, answer)
            if size != fixed:
                with pytest.raises(BadInput, match=r"'x' of model 'b' takes .*: a size is"):
                    session.run("b", feeds)
            futures = [(m, session.submit(m, feeds)) for m in fit * 2]
            for m, future in futures:
                own.right(m, feeds, future.result(60))
        assert session.stats()["retries"] == 0
        with pytest.raises(BadInput, match="its rank is another one"):
            session.run("a", feeds | {"x": np.ones((1, 3, 2), np.float32)})
        if kind != "no-batch":
            with pytest.raises(BadInput, match="it has no rows"):
                session.run("a", feeds | {"x": np.ones((0, 3), np.float32)})


@pytest.mark.parametrize("mode", ["slots", "index"])
def test_rows_that_a_routed_call_takes_once_may_differ_for_an_own_file(mode: str, tmp_path: Path) -> None:
    text = "g (float[n,4] x, float[n,3] z) => (float[n,3] y) { h = MatMul(x, w)  y = Add(h, z) }"
    paths = [save(tmp_path / f"{name}.onnx", model(text, W, m)) for m, name in enumerate("abc")]
    options: dict[str, Any] = MODES[mode] | {"share": ["z"], "views": True, "verify": False}
    netfuse_onnx.merge(paths, str(tmp_path / "served"), **options)
    own = Sources(tmp_path)
    with MergedSession(tmp_path / "served", calibrate=0.0) as session:
        session._dispatcher.current.engine.costs = FakeCosts(merged=0.01)
        for call in range(3):
            for alike in (True, False):
                feeds = drawn(own.models["a"], call, {"n": 2})
                feeds["z"] = np.repeat(feeds["z"][:1], 2, axis=0) if alike else feeds["z"]
                pairs = [(m, feeds) for m in "abcab"]
                for (m, fed), answer in zip(pairs, session.run_many(pairs), strict=True):
                    own.right(m, fed, answer)
        assert session.stats()["retries"] == 0


def test_without_own_files_the_merged_file_says_which_sizes_it_takes(tmp_path: Path) -> None:
    texts = [SIZES["inner"].format("4" if name == "b" else "s") for name in "abc"]
    paths = [save(tmp_path / f"{m}.onnx", model(text, {"w": ()}, m)) for m, text in enumerate(texts)]
    netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), verify=False, names=[*"abc"])
    lone = MergedSession(tmp_path / "merged.onnx", calibrate=0.0)
    with lone, pytest.raises(BadInput, match="a size is 7, not 4"):
        lone.run("a", {"x": np.ones((1, 7), np.float32)})

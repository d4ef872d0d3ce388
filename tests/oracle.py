"""The one oracle: a merged graph computes the stack of N single runs, or the rule is wrong.

A test gives a small model whose data are all graph inputs, and values with a leading axis of N. The
oracle turns inputs into weights, equal or different, as its `roles` say, merges, and compares every
output of every model in ONNX Runtime, with its optimisations on and off. Where a node has several
lowerings, each is forced in turn, not only the one that the plan would choose.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from netfuse_onnx import plan as planning
from netfuse_onnx import weights
from netfuse_onnx.cost import Cost
from netfuse_onnx.load import load
from netfuse_onnx.lower import lower
from netfuse_onnx.match import match
from netfuse_onnx.infer import infer
from netfuse_onnx.types import Became, Correspondence, Merged, Plan

Array = np.ndarray
LEVELS = (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
TOLERANCE = {np.float32: 2e-5, np.float16: 4e-3, np.float64: 1e-12}

ROLES = ("input", "shared input", "weight", "shared weight")


def roles(names: Sequence[str], allowed: Sequence[str] = ROLES) -> Iterator[dict[str, str]]:
    """Every way to make each of `names` per model or shared, fed or stored; at least one is per model."""
    for combination in itertools.product(allowed, repeat=len(names)):
        if any(role in ("input", "weight") for role in combination):
            yield dict(zip(names, combination, strict=True))


def as_models(model: onnx.ModelProto, values: Mapping[str, Array], role: Mapping[str, str],
              folder: Path) -> list[Path]:
    """One file per model: inputs whose role is a weight become initializers with that model's value."""
    paths = []
    for m in range(len(next(iter(values.values())))):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for name, kind in role.items():
            if kind.endswith("weight"):
                (found,) = [i for i in copy.graph.input if i.name == name]
                copy.graph.input.remove(found)
                array = values[name][0 if kind.startswith("shared") else m]
                copy.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        path = folder / f"m{m}.onnx"
        onnx.save(copy, path)
        paths.append(path)
    return paths


def family(paths: Sequence[Path]) -> Correspondence:
    sources = [load(str(path)) for path in paths]
    return match([infer(sources[0]), *sources[1:]], [path.stem for path in paths])


def materialise(merged: Merged) -> bytes:
    """The merged model with its weights inside, without the writer."""
    model = onnx.ModelProto()
    model.CopyFrom(merged.model)
    for tensor in model.graph.initializer:
        if tensor.name in merged.recipes:
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(merged.recipes[tensor.name]))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(model: bytes | str, feeds: Mapping[str, Array], level: ort.GraphOptimizationLevel) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def plans(corr: Correspondence, io: str, share: frozenset[str]) -> Iterator[Plan]:
    """The best plan, then one per lowering of each node, with that lowering forced."""
    found = planning.candidates(corr, io=io, share=share)
    yield planning.plan(corr, io=io, share=share)
    for i, offers in enumerate(found.options):
        for offer in offers if len(offers) > 1 else []:
            forced = dataclasses.replace(found, options=[*found.options[:i], [offer], *found.options[i + 1 :]])
            search = planning.Search(corr.graph, corr.weights, forced, Cost(corr.models))
            solution = search.solve()
            yield Plan(search.chosen(solution), solution.cost, solution.exact)


def check(model: onnx.ModelProto, values: Mapping[str, Array], role: Mapping[str, str], folder: Path, *,
          io: str = "separate", batched: bool = True, tolerance: float | None = None) -> None:
    """Merge and compare. `values[name]` is [N, *shape]. `batched`: nothing may be replicated."""
    paths = as_models(model, values, role, folder)
    corr = family(paths)
    share = frozenset(name for name, kind in role.items() if kind == "shared input")
    fed = [name for name, kind in role.items() if kind.endswith("input")]
    singles = [
        run(str(path), {name: values[name][0 if name in share else m] for name in fed}, LEVELS[0])
        for m, path in enumerate(paths)
    ]
    for plan in plans(corr, io, share):
        if batched:
            left = [low for low in plan.lowerings if low.became is Became.REPLICATED]
            assert not left, f"replicated, {role}: {left[0].reason}"
        merged = materialise(lower(corr, plan, io=io, share=share))
        for level in LEVELS:
            got = run(merged, merged_feeds(values, fed, share, io, corr.names), level)
            compare(singles, got, io, corr.names, f"{role} {[low.takes for low in plan.lowerings]}", tolerance)


def merged_feeds(values: Mapping[str, Array], fed: Sequence[str], share: frozenset[str], io: str,
                 names: Sequence[str]) -> dict[str, Array]:
    feeds = {}
    for name in fed:
        if name in share:
            feeds[name] = values[name][0]
        elif io == "stacked":
            feeds[name] = values[name]
        else:
            feeds |= {f"{model}/{name}": values[name][m] for m, model in enumerate(names)}
    return feeds


def compare(singles: Sequence[Mapping[str, Array]], got: Mapping[str, Array], io: str, names: Sequence[str],
            what: str, tolerance: float | None) -> None:
    for m, (model, single) in enumerate(zip(names, singles, strict=True)):
        for name, want in single.items():
            have = got[name][m] if io == "stacked" else got[f"{model}/{name}"]
            assert have.shape == want.shape and have.dtype == want.dtype, f"{what}: {name} of model {m}"
            close(have, want, f"{what}: {name} of model {m}", tolerance)


def close(have: Array, want: Array, what: str, tolerance: float | None = None) -> None:
    """Equal within the tolerance of the type, relative to the largest element."""
    limit = TOLERANCE.get(want.dtype.type, 0.0) if tolerance is None else tolerance
    if limit == 0.0:
        np.testing.assert_array_equal(have, want, err_msg=what)
        return
    finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
    scale = float(finite.max(initial=1e-3))
    np.testing.assert_allclose(have, want, rtol=limit, atol=limit * scale, err_msg=what)

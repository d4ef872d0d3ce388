"""Every rule keeps rows apart: the cases of tests/rules with a batch of any size, their rows mixed in one call.

A case whose operators may mix rows is refused. All others, by slots and by index, by every lowering on offer, must
give each row what its own model's file gives in a batch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from isolation import Sample
from rule_cases import NAMES, samples

from netfuse_onnx import routes
from netfuse_onnx.errors import NotRoutable, NotStackable
from netfuse_onnx.labels import Labels
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.types import Correspondence

MOST_PLANS = 8
"""The lowerings of a case that are tried, at most, by slots and by index."""


class Rows:
    """A case whose fed inputs have a batch: the files, and what each gives for its rows."""

    def __init__(self, sample: Sample, folder: Path) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(sample.model)
        fed = [name for name, kind in sample.role.items() if kind == "input"]
        shapes = {name: sample.values[name].shape[1:] for name in fed}
        sizes = Counter(shape[0] for shape in shapes.values() if shape)
        self.batch = sizes.most_common(1)[0][0] if sizes else 0
        self.rows = [name for name, shape in shapes.items() if shape and shape[0] == self.batch]
        self.once = frozenset(name for name, kind in sample.role.items() if kind.endswith("input")) - {
            *self.rows
        }
        for info in self.model.graph.input:
            if info.name in self.rows:
                info.type.tensor_type.shape.dim[0].dim_param = "batch"
        for info in self.model.graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
        del self.model.graph.value_info[:]
        self.values = {
            name: np.stack([v[0]] * len(v)) if name in self.once else v for name, v in sample.values.items()
        }
        self.role = {n: "shared input" if n in self.once else kind for n, kind in sample.role.items()}
        self.paths = oracle.as_models(self.model, self.values, self.role, folder)
        self.keep_opset = sample.keep_opset

    def family(self) -> Correspondence:
        return oracle.family(self.paths, keep_opset=self.keep_opset)

    def drawn(self, model: int) -> dict[str, np.ndarray]:
        return {name: self.values[name][model] for name in (*self.rows, *self.once)}


def merges(case: Rows, family: Correspondence, io: str) -> Iterator[tuple[bytes, Packing, str]]:
    """The merged models of a case, by several lowerings."""
    family = routes.matched(family, io, "")
    share = routes.shared(family, io, case.once)
    for plan in itertools.islice(oracle.plans(family, io, share, True), MOST_PLANS):
        merged = lower(family, plan, io=io, share=share)
        what = f"{io} {[(low.rule, *map(str, low.takes)) for low in plan.lowerings]} {case.role}"
        yield oracle.materialise(merged), Packing(Labels.of(family, io, share)), what


def right(
    case: Rows,
    wants: list[dict[str, np.ndarray]],
    model: bytes,
    packing: Packing,
    what: str,
    level: oracle.ort.GraphOptimizationLevel,
) -> None:
    """Rows of all models in a random order are what their own files give."""
    count = len(case.paths)
    order = np.random.default_rng(len(model)).permutation(np.repeat(np.arange(count), case.batch))
    values = [case.drawn(m) for m in range(count)]
    got = oracle.run(model, packing.rows(values, order), level)
    for m, want in enumerate(wants):
        for name, value in want.items():
            mine = got[name][order == m]
            assert mine.shape == value.shape and mine.dtype == value.dtype, f"{name} {mine.shape} {what}"
            if value.dtype.kind in "fV":
                near = oracle.TOLERANCE.get(value.dtype.type, 1e-2)
                scale = max(1.0, float(np.abs(value[np.isfinite(value)]).max(initial=0.0)))
                np.testing.assert_allclose(
                    mine.astype(np.float64),
                    value.astype(np.float64),
                    rtol=near,
                    atol=near * scale,
                    err_msg=what,
                )
            else:
                np.testing.assert_array_equal(mine, value, err_msg=what)


@pytest.mark.parametrize("name", NAMES)
def test_rows_stay_apart(name: str, tmp_path: Path) -> None:
    for sample in samples(name):
        try:
            case = Rows(sample, tmp_path)
            if not case.rows or not case.batch:
                continue
            family = case.family()
            routes.require_routable(family, routes.shared(family, "slots", case.once))
            wants = oracle.run_apart(case.paths, case.values, case.role)
        except NotRoutable:
            continue
        for io in ("slots", "index"):
            try:
                for turn, (model, packing, what) in enumerate(merges(case, family, io)):
                    right(case, wants, model, packing, what, oracle.LEVELS[turn % 2])
            except NotStackable as reason:
                if io == "slots" and "of opset" not in reason.message:
                    raise

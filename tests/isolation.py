"""The oracle of isolation: on any input a merged model fails, or gives each model what it gives alone.

The files name axes as they like: one name for all of one size, a name for each, or none. A run then feeds sizes
that do not fit together, or numbers that spread. Where the single models refuse such an input the merged one may
answer, but never from another model's data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import oracle
from cases import Array

from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.types import Became

NAMINGS = ("one name", "own names", "no names")
AXES = ("all", "first", "later")
ODD = (np.nan, np.inf, 3e38)
FAR = (-1, -(2**20), 2**20)

Values = Mapping[str, Sequence[Array]]
Axes = Sequence[tuple[str, int]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A model of one family, the values of its inputs for N models, their roles."""

    model: onnx.ModelProto
    values: Mapping[str, Array]
    role: Mapping[str, str]
    keep_opset: bool = False

    @property
    def fed(self) -> list[str]:
        """The inputs of each model of its own."""
        return [name for name, kind in self.role.items() if kind == "input"]


@dataclasses.dataclass(frozen=True)
class Trial:
    """Sessions of the single models, with optimisations and without, and of the merged ones."""

    role: Mapping[str, str]
    names: Sequence[str]
    alone: Sequence[Sequence[ort.InferenceSession]]
    merged: Sequence[tuple[str, ort.InferenceSession]]

    def apart(self, values: Values, level: int) -> list[dict[str, Array]] | None:
        """The results of the single models; None where one of them refuses."""
        share = oracle.shared(self.role)
        fed = [name for name, kind in self.role.items() if kind.endswith("input")]
        try:
            return [
                oracle.ask(session, {name: values[name][0 if name in share else m] for name in fed})
                for m, session in enumerate(self.alone[level])
            ]
        except Exception:  # ONNX Runtime raises classes of its own, without a common base
            return None

    def together(self, session: ort.InferenceSession, values: Values) -> dict[str, Array] | None:
        """The results of a merged model; None where it refuses."""
        try:
            return oracle.ask(session, oracle.merged_feeds(values, self.role, "separate", self.names))
        except Exception:  # ONNX Runtime raises classes of its own, without a common base
            return None


def isolated(sample: Sample, folder: Path, *, naming: str, which: str) -> int:
    """Merge by every lowering and run on odd input. Returns in how many runs the merged model answered."""
    model, axes = opened(sample, naming, which)
    found = trial(sample, model, folder)
    answered = 0
    for what, values in sizes(sample, axes):
        answered += sum(_own_data(found, values, sample.fed, f"{naming} {which} {what}"))
    for what, values in numbers(sample):
        for case, session in found.merged:
            clean, harmed = found.together(session, _lists(sample)), found.together(session, values)
            if clean is not None and harmed is not None:
                unmoved(clean, harmed, f"{naming} {which} {what} {case}")
                answered += 1
    return answered


def opened(sample: Sample, naming: str, which: str) -> tuple[onnx.ModelProto, Axes]:
    """The model with axes of what each model is fed left open, and these axes. Its outputs say their ranks."""
    model, axes = onnx.ModelProto(), []
    model.CopyFrom(sample.model)
    del model.graph.value_info[:]
    for info in (i for i in model.graph.input if i.name in sample.fed):
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            named = dim.dim_param or f"d{dim.dim_value}"
            if not dim.dim_param and which != "all" and (which == "first") != (axis == 0):
                continue
            dim.Clear()
            axes.append((info.name, axis))
            if naming != "no names":
                dim.dim_param = named if naming == "one name" else f"{info.name}.{axis}"
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    return model, axes


def trial(sample: Sample, model: onnx.ModelProto, folder: Path) -> Trial:
    paths = oracle.as_models(model, sample.values, sample.role, folder)
    with mock.patch.object(oracle, "observed", return_value={}):  # what it draws may be large
        family = oracle.family(paths, keep_opset=sample.keep_opset)
    share, merged = oracle.shared(sample.role), []
    for plan in oracle.plans(family, "separate", share, True):
        apart = all(low.became is Became.REPLICATED for low in plan.lowerings)
        if np.isfinite(plan.cost) and not (apart and merged):
            what = str([(low.rule, *map(str, low.takes)) for low in plan.lowerings])
            whole = oracle.materialise(lower(family, plan, io="separate", share=share))
            merged.append((what, oracle.session(whole, oracle.LEVELS[len(merged) % 2])))
    alone = [[oracle.session(str(path), level) for path in paths] for level in oracle.LEVELS]
    return Trial(sample.role, family.names, alone, merged)


# --------------------------------------------------------------------------- odd input


def _lists(sample: Sample) -> dict[str, list[Array]]:
    return {name: list(value) for name, value in sample.values.items()}


def sizes(sample: Sample, axes: Axes) -> Iterator[tuple[str, Values]]:
    """The values with one axis of one input longer or shorter, in all models or in the second one; and with
    all first axes cut."""
    plain, models = _lists(sample), len(next(iter(sample.values.values())))
    for name, axis in axes:
        size = sample.values[name].shape[axis + 1]
        for other in sorted({1, size + 1, size * models, max(size - 1, 1)} - {size}) if size else ():
            odd = np.take(sample.values[name], np.arange(other) % size, axis=axis + 1)
            yield f"{name}.{axis}: {other} for {size}", {**plain, name: list(odd)}
            mixed = [odd[m] if m == 1 else part for m, part in enumerate(plain[name])]
            yield f"{name}.{axis} of one model: {other} for {size}", {**plain, name: mixed}
    first = {name for name, axis in axes if axis == 0}
    yield "one row each", {k: [x[:1] if k in first else x for x in xs] for k, xs in plain.items()}


def numbers(sample: Sample) -> Iterator[tuple[str, Values]]:
    """The values with numbers that spread, or indices far out, in one input of the second model."""
    for name in sample.fed:
        kind = sample.values[name].dtype.kind
        for odd in ODD if kind == "f" else FAR if kind == "i" else ():
            values = _lists(sample)
            with np.errstate(over="ignore"):
                values[name][1] = _filled(values[name][1], odd)
            yield f"{name}: {odd}", values


def _filled(like: Array, number: float) -> Array:
    """An array of one number, or of the nearest that its type has."""
    if like.dtype.kind == "i":
        limits = np.iinfo(like.dtype)
        number = max(limits.min, min(int(number), limits.max))
    return np.full_like(like, number)


# --------------------------------------------------------------------------- verdicts


def _own_data(found: Trial, values: Values, fed: Sequence[str], what: str) -> Iterator[bool]:
    """True for each merged model that answers, with what the single models give."""
    single = [found.apart(values, level) for level in range(len(oracle.LEVELS))]
    for case, session in found.merged:
        got = found.together(session, values)
        if got is not None and None in single:
            moved = found.together(session, _moved(values, fed))
            unmoved(got, moved or got, f"{what} {case}")
        elif got is not None:
            _one_of(single, got, found.names, f"{what} {case}")
        yield got is not None


def _one_of(
    single: Sequence[list[dict[str, Array]] | None], got: dict[str, Array], names: Sequence[str], what: str
) -> None:
    """As one of the two runs of the single models: ONNX Runtime's fusions drop checks, and broadcasts."""
    first, second = (run or [] for run in single)
    try:
        oracle.compare(first, got, "separate", names, what, None)
    except AssertionError:
        oracle.compare(second, got, "separate", names, what, None)


def _moved(values: Values, fed: Sequence[str]) -> Values:
    """Other data for the second model."""
    found = {name: list(parts) for name, parts in values.items()}
    for name in fed:
        part = np.roll(found[name][1], 1)
        found[name][1] = part + part.dtype.type(1) if part.dtype.kind == "f" else part
    return found


def unmoved(before: Mapping[str, Array], after: Mapping[str, Array], what: str) -> None:
    """All models but the second give the same bits."""
    for name, value in before.items():
        if not name.startswith("m1/"):
            same = value.shape == after[name].shape and value.tobytes() == after[name].tobytes()
            if value.dtype.kind == "O":
                same = bool(np.array_equal(value, after[name]))
            assert same, f"{what}: {name} follows the data of another model"

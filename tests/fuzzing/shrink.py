"""Makes a failing case smaller while it still fails in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper

from fuzzing.build import Array, reads
from fuzzing.case import Case, typed
from fuzzing.trial import Discard, Failure, examine

PLANS = 6
"""Random plans that a smaller case is tried with."""


def shrink(case: Case, failure: Failure, folder: Path) -> tuple[Case, Failure]:
    """The smallest case found that fails with the same kind of failure."""
    improved = True
    while improved:
        improved = False
        for smaller in _smaller(case, failure):
            again = fails(smaller, folder)
            if again is not None and again.kind == failure.kind:
                case, failure, improved = smaller, again, True
                break
    return case, failure


def fails(case: Case, folder: Path) -> Failure | None:
    try:
        examine(case, folder, plans=PLANS)
    except Failure as failure:
        return failure
    except Discard:
        return None
    except Exception:  # not a case that can be run at all
        return None
    return None


def _smaller(case: Case, failure: Failure) -> Iterator[Case]:
    outputs = [info.name for info in case.model.graph.output]
    if len(outputs) > 1:
        names = [failure.output] if failure.output in outputs else outputs
        for name in names:
            yield _pruned(case, [name])
        for name in outputs:
            yield _pruned(case, [other for other in outputs if other != name])
    for node in case.model.graph.node:
        for name in node.output:
            if name in outputs and len(outputs) == 1:
                yield from (_pruned(case, [v]) for v in node.input if _made(case, v))
            if name in case.known:
                yield _fed(case, name)
    yield from _plainer(case)


def _made(case: Case, name: str) -> bool:
    return any(name in node.output for node in case.model.graph.node) and name in case.known


def _plainer(case: Case) -> Iterator[Case]:
    if case.other is not None:
        yield dataclasses.replace(case, other=None)
    if case.models > 2:
        first = {name: arrays[:2] for name, arrays in case.values.items()}
        known = {name: arrays[:2] for name, arrays in case.known.items()}
        yield dataclasses.replace(case, models=2, values=first, other=None, known=known)
    if case.io != "separate":
        yield dataclasses.replace(case, io="separate")
    if case.keep_opset:
        yield dataclasses.replace(case, keep_opset=False)
    for name, role in case.role.items():
        for plainer in ("shared weight", "weight", "input"):
            same = all(array is case.values[name][0] for array in case.values[name])
            if plainer == role:
                break
            if plainer == "shared weight" and not same:
                continue
            yield dataclasses.replace(case, role={**case.role, name: plainer})


def _pruned(case: Case, outputs: list[str]) -> Case:
    """Only what these outputs need."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    needed, nodes = set(outputs), []
    for node in reversed(case.model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(reads(node))
    kept = {info.name: info for info in (*graph.input, *graph.output)}
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    inputs = [info for info in case.model.graph.input if info.name in needed]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.output[:]
    for name in outputs:
        array = _arrays(case, name)[0]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.output.add().CopyFrom(helper.make_tensor_value_info(name, kind, None))
    typed(
        model, {name: _arrays(case, name)[0].shape for name in outputs if name in kept or name in case.known}
    )
    names = {info.name for info in inputs}
    return dataclasses.replace(
        case, model=model, role={n: r for n, r in case.role.items() if n in names},
        values={n: v for n, v in case.values.items() if n in names},
        other={n: v for n, v in case.other.items() if n in names} if case.other else None,
    )  # fmt: skip


def _fed(case: Case, name: str) -> Case:
    """The node that makes `name` dropped: its result is fed instead."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for node in model.graph.node:
        for k, output in enumerate(node.output):
            if output == name:
                node.output[k] = f"{name}_unused"
    arrays = case.known[name]
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    dims = arrays[0].shape if all(a.shape == arrays[0].shape for a in arrays) else [None] * arrays[0].ndim
    model.graph.input.append(helper.make_tensor_value_info(name, kind, dims))
    outputs = [info.name for info in model.graph.output if info.name != name]
    fed = dataclasses.replace(
        case,
        model=model,
        role={**case.role, name: "input"},
        values={**case.values, name: list(arrays)},
        other=None,
    )
    return _pruned(fed, outputs)


def _arrays(case: Case, name: str) -> list[Array]:
    return list(case.known[name]) if name in case.known else case.values[name]
